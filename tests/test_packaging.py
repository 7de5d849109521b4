"""The wheel carries its configuration, audio-set specifications, kernels and weights with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.paths import conf_dir, datasets_dir

ROOT = conf_dir().parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_every_data_file_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for source, target in ((conf_dir(), "harness/_conf"), (datasets_dir(), "harness/_datasets")):
        for path in source.rglob("*"):
            if path.is_file():
                assert f"{target}/{path.relative_to(source)}" in packed
    for path in (ROOT / "variants").rglob("*"):
        if path.suffix in {".cu", ".cuh", ".safetensors", ".model", ".npz", ".html"}:
            assert str(path.relative_to(ROOT)) in packed
    assert not [name for name in packed if name.startswith(("tests/", "datasets/"))]


def test_an_installed_wheel_finds_its_configuration(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    overrides = ["model=fixed_cost", "runner.processes=1", "workload.requests=3"]
    warm_up = ["runner.warmup.max_passes=1", "runner.warmup.min_passes=1"]
    command = [sys.executable, "-m", "harness", *overrides, *warm_up]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(elsewhere.glob("results/*/run.json"))
    where = subprocess.run(
        [sys.executable, "-c", "import harness.paths as p; print(p.conf_dir())"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(site / "harness" / "_conf")
