"""Sweeps whose runs are measured in processes of a launcher."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import sweep
from harness.errors import HarnessError
from harness.paths import conf_dir
from tests.harness.test_cli import FAST, Harness


def told(folder: Path, job: int, code: int | None) -> None:
    (folder / str(job)).mkdir(parents=True)
    if code is not None:
        (folder / str(job) / "job.json").write_text(json.dumps({"exit_code": code, "run": None}))


def test_the_first_job_that_was_not_done_decides(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").touch()
    for job, code in {0: 0, 2: 4, 10: 3}.items():
        told(tmp_path, job, code)
    assert sweep.ended(tmp_path) == 4


def test_a_job_that_its_launcher_lost_is_named(tmp_path: Path) -> None:
    told(tmp_path, 0, 0)
    told(tmp_path, 1, None)
    with pytest.raises(HarnessError, match=r"1/job\.json: is missing: the launcher has lost this job"):
        sweep.ended(tmp_path)


LAUNCHER = """
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher


class Nowhere(Launcher):
    def setup(self, **_):
        pass

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError("Could not detect srun")


node = {"_target_": "hydra_plugins.nowhere.Nowhere"}
ConfigStore.instance().store(group="hydra/launcher", name="nowhere", node=node)
"""


def test_a_launcher_that_cannot_launch_here_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "nowhere.py").write_text(LAUNCHER)
    command = [sys.executable, "-m", "harness", "-m", "hydra/launcher=nowhere", "model=fixed_cost"]
    path = os.pathsep.join([str(tmp_path), str(conf_dir().parent)])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "error: hydra/launcher=nowhere cannot launch here: Could not detect srun" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins") is None
    or importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="the launcher is not installed: pip install -e '.[launchers]'",
)
def test_jobs_side_by_side_say_that_they_were_and_how_they_ended(tmp_path: Path) -> None:
    harness = Harness(tmp_path, tmp_path / "cache")
    assert harness(*FAST, "runner.reference=false").returncode == 0  # renders the set
    launcher = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    slow = "model.options.per_request_s=0.1"
    done = harness(*launcher, *FAST, slow, "runner.reference=false", "workload.seed=1,2")
    assert done.returncode == 0, done.stderr
    pair = harness.runs()[1:]
    assert len(pair) == 2
    for run in pair:
        assert any("another run was measured here" in text for text in run.run.summary["warnings"])
    assert "\nsweep    " in done.stdout
    missing = harness(*launcher, *FAST, "model.device=auto,cuda", "runner.reference=false")
    assert missing.returncode == 3, missing.stderr
