"""The README's workflow for GitHub Actions: what a runner would do with it, step by step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.paths import conf_dir
from tests.harness.project_copy import ProjectCopy

README = (conf_dir().parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (job,) = yaml.safe_load(text)["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_every_step_does_one_thing_and_actions_have_versions(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        assert len({"run", "uses"} & step.keys()) == 1
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))


@pytest.mark.slow  # it measures two checkouts in eight processes each
def test_its_commands_run_as_written(steps: list[dict[str, Any]], tmp_path: Path) -> None:
    root = ProjectCopy.make(tmp_path / "head", tmp_path / "cache").root
    ProjectCopy.make(root / "base", tmp_path / "cache")
    _install(root)
    environment = {
        **os.environ,
        "GITHUB_PATH": str(tmp_path / "path"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "PATH": f"{root}/.venv/bin:{os.environ['PATH']}",
    }
    for step in steps:
        if "run" in step:
            folder = root / step.get("working-directory", ".")
            shell = ("bash", "-e", "-c", step["run"])
            done = subprocess.run(
                shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, (step["run"], done.stdout, done.stderr)
    assert (tmp_path / "path").read_text() == f"{root}/.venv/bin\n"
    assert "latency.p50" in (tmp_path / "summary.md").read_text()
    action = next(step["with"] for step in steps if "benchmark-action" in step.get("uses", ""))
    assert {"name", "unit", "value"} <= json.loads((root / action["output-file-path"]).read_text())[0].keys()


def _install(root: Path) -> None:
    """The environment of this test as that of the copy, up to date."""
    for name in ("Makefile", "constraints.txt"):
        (root / name).write_text((conf_dir().parent / name).read_text())
    binaries = root / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    (root / ".venv" / ".ready").touch()
