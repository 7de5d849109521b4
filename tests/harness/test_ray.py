"""An offline run on Ray's actors: one dies, the run is interrupted, and each recording is there once."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.record import StoredRun, read_run
from tests.harness import test_ending as ending

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[ray]'"
    ),
]
RECORDINGS = 60
OFFLINE = (
    "workload=offline",
    "model=fixed_cost",
    "frontend=whole",
    "dataset.items=60",
    "runner.processes=1",
    "runner.warmup.min_passes=1",
    "runner.warmup.max_passes=1",
)
SLOW = "model.options.per_request_s=0.3"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*OFFLINE, SLOW, "topology=ray", "runner.resume=true")
    configuration = ending.Configuration(overrides, ("launcher", "measured"))
    monkeypatch.setitem(ending.CONFIGURATIONS, "ray", configuration)


def measured(cache: Path, results: Path, *overrides: str) -> StoredRun:
    places = (f"runner.results_dir={results}", f"runner.cache_dir={cache}")
    command = [sys.executable, "-m", "harness", *OFFLINE, *overrides, *places]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_run(sorted(results.glob("*/run.json"))[-1].parent)


def actor(running: ending.Command) -> psutil.Process:
    titles = {pid: psutil.Process(pid).cmdline()[0] for pid in running.processes()}
    return psutil.Process(next(pid for pid, title in titles.items() if title.startswith("ray::ShardWorker")))


def texts(stored: StoredRun) -> dict[str, str]:
    rows = stored.measured
    assert sorted(rows["request_id"]) == sorted(set(rows["request_id"]))
    return dict(zip(rows["request_id"], rows["text"], strict=True))


def test_one_of_two_workers_is_killed_midway(cache: Path, tmp_path: Path) -> None:
    with ending.command("ray", cache, tmp_path) as running:
        assert running.wait_for(lambda: running.journaled() > 5, 120), running.said
        actor(running).kill()
        assert running.process.wait(120) == 0, running.said
        assert running.wait_for(lambda: not running.processes(), 30)
        assert list(running.temporary.iterdir()) == []
        (stored,) = running.runs()
    assert texts(stored) == texts(measured(cache, tmp_path / "alone"))
    assert len(stored.measured) == RECORDINGS
    (process,) = stored.run.processes
    found = process.evidence["topology"]
    assert len(found["deaths"]) == 1 and found["recordings_done_again"] > 0
    assert len(found["workers"]) == 2 and found["given_up"] == []


@pytest.mark.parametrize(
    ("role", "number"),
    [("launcher", signal.SIGINT), ("launcher", signal.SIGKILL), ("measured", signal.SIGKILL)],
)
def test_nothing_is_left_and_the_rest_is_done_later(
    cache: Path, tmp_path: Path, role: str, number: signal.Signals
) -> None:
    group = (role, number) == ("launcher", signal.SIGINT)
    case = ending.Case("ray", role, number, 0.3, measuring=True, group=group)
    assert ending.faults(case, cache, tmp_path) == []
    results = tmp_path / "results"
    (stopped,) = (read_run(path.parent) for path in results.glob("*/run.json"))
    kept = set(stopped.measured["request_id"])
    time.sleep(1.1)  # runs of one second are told apart, not ordered
    whole = measured(cache, results, SLOW, "topology=ray", "runner.resume=true", "runner.reference=false")
    assert len(texts(whole)) == RECORDINGS and 0 < len(kept) < RECORDINGS
    assert (whole.measured["finished_s"] <= 0).sum() == len(kept)
