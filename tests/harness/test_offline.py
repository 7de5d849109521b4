"""Everything is there at the start: stopped, gone on with, and each recording once."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.record import Status, StoredRun, find_stopped, read_journal
from tests.harness.test_cli import Harness

OFFLINE = (
    "model=fixed_cost",
    "workload=offline",
    "workload.options.in_flight=2",
    "model.options.per_request_s=0.2",
    "runner.processes=1",
    "runner.warmup.max_passes=1",
    "runner.warmup.min_passes=1",
    "runner.reference=false",
    "runner.resume=true",
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp("offline")
    return Harness(folder, folder / "cache")


def stop_after_some(harness: Harness, end: Callable[[subprocess.Popen[str]], None]) -> str:
    with subprocess.Popen(harness.command(*OFFLINE), stderr=subprocess.PIPE, text=True) as process:
        try:
            while measured(harness.results) < 3:
                assert process.poll() is None
                time.sleep(0.02)
            end(process)
            return process.communicate(timeout=60)[1]
        finally:
            process.kill()


def measured(results: Path) -> int:
    journals = sorted(results.glob("*/process-0.jsonl"))
    content = read_journal(journals[-1]) if journals else None
    return 0 if content is None else sum(row["phase"] == "measured" for row in content.rows)


def test_a_run_that_is_stopped_is_gone_on_with_by_recording(harness: Harness) -> None:
    said = stop_after_some(harness, lambda process: process.send_signal(signal.SIGINT))
    assert "runner.resume=true goes on with it" in said
    (stopped,) = harness.runs()
    kept = {str(row.request_id): row for row in stopped.measured.itertuples()}
    assert stopped.run.status is Status.INTERRUPTED and 3 <= len(kept) < 12
    assert find_stopped(harness.results, stopped.run.content_hash) == stopped.folder

    again = harness(*OFFLINE)
    assert again.returncode == 0, again.stderr
    whole = harness.runs()[-1]
    assert sorted(whole.measured["request_id"]) == [f"{n:06d}" for n in range(12)]
    for row in whole.measured.itertuples():
        if row.request_id in kept:  # that of the run that was stopped, before this process's time
            assert row.finished_s <= 0
            assert row.finished_s - row.started_s == pytest.approx(
                kept[str(row.request_id)].finished_s - kept[str(row.request_id)].started_s
            )
        else:
            assert row.dispatched_s > 0
    assert f"{len(kept)} of 12 recordings are that run's" in again.stdout
    assert wall_s(whole) >= 12 * 0.2 / 2  # the time of both parts
    assert find_stopped(harness.results, stopped.run.content_hash) is None
    assert "already measured" in harness(*OFFLINE).stderr


def wall_s(stored: StoredRun) -> float:
    return float(stored.measured["finished_s"].max() - stored.measured["dispatched_s"].min())


def test_the_summary_says_what_the_whole_set_took(harness: Harness) -> None:
    prices = ("cost.cpu_usd_per_hour=0.36", "cost.gpu_usd_per_hour=2")
    options = ("workload.options.order=by_length", "model.options.per_request_s=0.0")
    said = harness(*OFFLINE, *options, *prices, "batching=continuous").stdout
    figures = dict(line.split(maxsplit=1) for line in said.splitlines() if line.startswith(("audio", "wall")))
    assert "first byte read to last text" in figures["wall"]
    for name in ("not in it", "hours an hour", "price", "energy", "device idle", "padding", "cores used"):
        assert f"\n{name}" in said
    assert "$ per 1,000 hours" in said and "\nlatency" not in said
    page = (harness.runs()[-1].folder / "report" / "report.html").read_text()
    assert "<h2>Offline</h2>" in page and "Latency per length bucket" not in page
