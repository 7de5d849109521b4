from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.record import ParityStatus, StoredRun, read_run


def measure(tmp_path: Path, *overrides: str) -> tuple[subprocess.CompletedProcess[str], StoredRun]:
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    command = [sys.executable, "-m", "harness", "model=fixed_cost", "runner.processes=1", *places, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (path,) = (tmp_path / "results").glob("*/run.json")
    return done, read_run(path.parent)


#: Whether the clients kept their schedule depends on what else runs here; it is not what is tested.
PATIENT = ("workload.lag_budget_s=10", "workload.options.duration_s=2", "workload.requests=20")
#: A heap that the server has and those who stream at it have not.
HEAP = "gc.options.objects=300000"


@pytest.mark.parametrize("variant", ["epoll", "threads", "uvloop"])
def test_live_streams_lose_nothing(tmp_path: Path, variant: str) -> None:
    done, run = measure(tmp_path, f"variant={variant}", "workload=streaming", *PATIENT, HEAP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.run.parity is not None
    assert run.run.parity.status is ParityStatus.SAME
    figures = run.run.processes[0].evidence["streaming"]
    assert figures["connections"] == 20
    assert figures["lost_chunks"] == 0
    chunks = pd.read_parquet(run.folder / "chunks-0.parquet")
    assert len(chunks) == 20 * 20
    assert (chunks["acked_s"] > chunks["scheduled_s"]).all()
    assert set(run.samples["bucket"]) == {"01-02s"}  # of what was streamed, not of the recordings
    own = run.run.processes[0].evidence["process"]["peak_rss_bytes"]
    assert run.run.memory is not None
    assert run.run.memory.rss_bytes == pytest.approx(own, rel=0.05)  # the server's, while it served
    assert "chunk latency p50" in done.stdout and "worst stream's RTF" in done.stdout
    streams = pd.read_parquet(run.folder / "streams-0.parquet")
    assert len(streams) == 20 and (streams["real_time_factor"] > 1).all() and (streams["final_s"] > 0).all()
    assert "Live streams" in (run.folder / "report" / "report.html").read_text()


@pytest.mark.slow  # four processes more; tests/harness/target has the websocket, and others the run
def test_streams_over_a_websocket_get_the_reference_s_text(tmp_path: Path) -> None:
    """The protocol acknowledges no chunk: latency is from the end of speech to the final text."""
    done, run = measure(tmp_path, "variant=http", "workload=streaming", *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.run.parity is not None
    assert run.run.parity.status is ParityStatus.SAME
    figures = run.run.processes[0].evidence["streaming"]
    assert (figures["chunks"], figures["lost_chunks"], figures["acknowledged"]) == (20 * 20, 0, False)
    assert run.run.processes[0].evidence["io"]["streams"] == 20
    assert "final text p50" in done.stdout


def test_the_search_records_every_step(tmp_path: Path) -> None:
    search = ("workload.search=slo", "workload.options.slo_p95_s=5", "workload.options.slo_most=40")
    done, run = measure(tmp_path, "variant=epoll", "workload=streaming", *PATIENT, *search)
    assert done.returncode == 0, done.stdout + done.stderr
    found = run.run.processes[0].evidence["streaming"]["search"]
    assert [step["connections"] for step in found["steps"]] == [20, 40]
    assert found["largest"] == 40


def test_streams_without_sockets_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "workload=streaming", f"runner.results_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "io=epoll" in done.stderr
