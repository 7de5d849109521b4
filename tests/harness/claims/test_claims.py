"""The claims: how a verdict follows from a measurement, and the report that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.claims import collector, connections, copies, hops, report
from harness.claims.__main__ import all_tests, main
from harness.claims.connections import StreamRun
from harness.claims.model import Bench, Claim, Finding, Verdict, interleaved
from harness.claims.services import Served
from harness.errors import ExitCode
from harness.measure.stats import Estimate
from harness.protocols import Reply, Transcript
from harness.protocols.server import CollectorPause
from harness.spans import Span
from harness.workload.client import StreamRecords
from harness.workload.streaming import StreamingPlan, StreamingResult

SECOND = 1_000_000_000
QUIET = 0.002


def latencies(stall_s: float = 0.0, every: int = 10, level_s: float = QUIET) -> np.ndarray:
    """``[20 streams, 200 chunks]`` of 100 ms; a stall at every ``every``-th second, on all streams."""
    values = np.full((20, 200), level_s)
    if stall_s:
        values[:, :: every * 10] = stall_s
    return values


def run(label: str, values: np.ndarray, lag_s: float = 0.0, longest_pause_s: float = 0.0) -> StreamRun:
    rows, chunks = values.shape
    scheduled = np.tile(((np.arange(chunks) + 1) * SECOND // 10), (rows, 1)) + SECOND
    lost = np.isnan(values)
    records = StreamRecords(
        scheduled_ns=scheduled,
        sent_ns=scheduled + int(lag_s * SECOND),
        acked_ns=np.where(lost, 0, scheduled + (np.nan_to_num(values) * SECOND).astype(np.int64)),
        first_text_ns=scheduled[:, 9],
        final_ns=scheduled[:, -1] + 1,
        texts=("",) * rows,
        errors=("",) * rows,
        refused_sends=0,
        cpu_s=1.0,
    )
    result = StreamingResult(
        StreamingPlan(connections=rows, duration_s=chunks / 10), SECOND, np.zeros(rows, np.int64), records
    )
    generations = {
        str(g): {"collections": 1, "max_s": longest_pause_s if g == 2 else 0.0, "total_s": 0.0}
        for g in range(3)
    }
    evidence: dict[str, Any] = {
        "io": {"process_threads": 2, "voluntary_switches": 10, "involuntary_switches": 1},
        "process": {"cpu_s": 1.0, "peak_rss_bytes": 1 << 20},
        "gc": {"python": "3.11.7", "generations": generations},
    }
    pauses = (CollectorPause(2, 2 * SECOND, 2 * SECOND + int(longest_pause_s * SECOND)),)
    return StreamRun(label, result, result.summary(), evidence, pauses)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path, cache_dir=tmp_path, connections=20, objects=1000, requests=100)


# ---------------------------------------------------------------- claim 6


@pytest.mark.parametrize(
    ("threads", "epoll", "verdict"),
    [
        (latencies(level_s=0.05), latencies(), Verdict.REPRODUCED),
        (latencies(), latencies(), Verdict.PARTLY),
        (latencies(), latencies(level_s=0.05), Verdict.PARTLY),
        (np.where(np.arange(200) == 7, np.nan, latencies()), latencies(), Verdict.REPRODUCED),
        (latencies(), np.where(np.arange(200) == 7, np.nan, latencies()), Verdict.NOT_HERE),
    ],
    ids=["lower", "same", "higher", "threads lose chunks", "epoll loses chunks"],
)
def test_claim_6_follows_its_rule(
    bench: Bench, threads: np.ndarray, epoll: np.ndarray, verdict: Verdict
) -> None:
    runs = {"threads": [run("threads", threads)] * 2, "epoll": [run("epoll", epoll)] * 2}
    finding = connections._finding(bench, runs, None)
    assert finding.verdict is verdict
    assert len(finding.rows) == 4
    assert all((bench.folder / name).stat().st_size > 10_000 for name in finding.plots)


def test_late_clients_are_no_verdict(bench: Bench) -> None:
    late = [run("epoll", latencies(), lag_s=0.1)]
    finding = connections._finding(bench, {"threads": [run("threads", latencies())], "epoll": late}, None)
    assert finding.verdict is Verdict.CANNOT_RUN
    assert any("the clients were late" in note for note in finding.notes)


# ---------------------------------------------------------------- claim 7


def often(stall_s: float) -> np.ndarray:
    """A stall that a tenth of all chunks feels, in every second."""
    values = latencies()
    values[:, ::10] = stall_s
    return values


@pytest.mark.parametrize(
    ("default", "frozen", "pauses_s", "verdict"),
    [
        (often(0.2), latencies(), (0.2, 0.001), Verdict.REPRODUCED),
        (latencies(0.2, every=1), latencies(), (0.2, 0.001), Verdict.REPRODUCED),
        (latencies(0.2, every=5), latencies(), (0.2, 0.001), Verdict.PARTLY),
        (often(0.2), latencies(level_s=0.004), (0.2, 0.1), Verdict.PARTLY),
        (latencies(), latencies(), (0.01, 0.01), Verdict.NOT_HERE),
    ],
    ids=["p95", "p95 of every second", "only the pause", "p50 moved too", "no stall"],
)
def test_claim_7_follows_its_rule(
    bench: Bench, default: np.ndarray, frozen: np.ndarray, pauses_s: tuple[float, float], verdict: Verdict
) -> None:
    runs = {
        "default": [run("gc=default", default, longest_pause_s=pauses_s[0])] * 2,
        "frozen": [run("gc=frozen", frozen, longest_pause_s=pauses_s[1])] * 2,
    }
    curve = {"default": [0.001, 0.01], "frozen": [0.0001, 0.0001]}
    finding = collector._finding(bench, [1000, 10_000], curve, runs)
    assert finding.verdict is verdict
    assert finding.plots == ["claim7_timeline.png", "claim7_heap.png"]
    assert finding.data["pause_s_by_objects"]["default"] == {"1000": 0.001, "10000": 0.01}


# ---------------------------------------------------------------- claims 5 and 8


def served(
    ipc_s: float,
    latency_s: float,
    text: str = "a",
    copied: int = 0,
    hops_: int = 3,
    count: int = 5,
) -> Served:
    warm_ups = 1
    rng = np.random.default_rng(0)
    taken = latency_s * rng.uniform(0.98, 1.02, count)
    replies = tuple(
        Reply(str(i), Transcript(text), (Span("ipc", 0, int(ipc_s * SECOND)),), 0, int(t * SECOND))
        for i, t in enumerate(taken)
    )
    counted = {"copied_bytes_total": copied * (count + warm_ups), "copied_bytes": {"somewhere": copied}}
    evidence: dict[str, Any] = {
        "topology": {"jobs": count + warm_ups, "hops_per_request": hops_, "processes": hops_},
        "ipc": {
            "payload_bytes": 1000,
            "copied_bytes_total": copied,
            "copied_bytes": {},
            "sent_by": {
                "main": {"copied_bytes_total": 99, "copied_bytes": {"container": 99}},
                "features": counted,
            },
            "received_by": {},
        },
    }
    return Served(replies, tuple(taken), evidence)


@pytest.mark.parametrize(
    ("zeromq_s", "shared_s", "copied", "text", "whole_s", "verdict"),
    [
        (0.5, 0.1, 0, "a", 1.0, Verdict.REPRODUCED),
        (0.5, 0.1, 4096, "a", 1.0, Verdict.PARTLY),
        (0.5, 0.1, 0, "a", 2.0, Verdict.PARTLY),
        (0.05, 0.01, 0, "a", 1.0, Verdict.PARTLY),
        (0.05, 0.04, 0, "a", 1.0, Verdict.NOT_HERE),
        (0.5, 0.1, 0, "b", 1.0, Verdict.NOT_HERE),
    ],
    ids=[
        "hundreds of ms",
        "a copy is left",
        "slower as a whole",
        "half, but little",
        "little",
        "another text",
    ],
)
def test_claim_5_follows_its_rule(
    bench: Bench, zeromq_s: float, shared_s: float, copied: int, text: str, whole_s: float, verdict: Verdict
) -> None:
    found = {
        ("zeromq", 60.0): [served(zeromq_s, 1.0, copied=1 << 20)] * 2,
        ("uds_copy", 60.0): [served(zeromq_s, 1.0, copied=1 << 20)] * 2,
        ("shared_memory", 60.0): [served(shared_s, whole_s, text, copied=copied)] * 2,
    }
    finding = copies._finding(bench, [60.0], found)
    assert finding.verdict is verdict
    assert [row["ipc"] for row in finding.rows] == ["zeromq", "uds_copy", "shared_memory"]
    assert finding.rows[2]["copied a request"] == f"{copied:,} B"


@pytest.mark.parametrize(
    ("before_s", "after_s", "hops_after", "text", "verdict"),
    [
        (0.1, 0.05, 3, "a", Verdict.REPRODUCED),
        (0.1, 0.1, 3, "a", Verdict.NOT_HERE),
        (0.1, 0.05, 5, "a", Verdict.NOT_HERE),
        (0.1, 0.05, 3, "b", Verdict.NOT_HERE),
    ],
    ids=["faster", "same", "no hop less", "another text"],
)
def test_claim_8_follows_its_rule(
    bench: Bench, before_s: float, after_s: float, hops_after: int, text: str, verdict: Verdict
) -> None:
    found = {
        "microservices": [served(0.01, before_s, hops_=5, count=100)] * 2,
        "collapsed": [served(0.01, after_s, text, hops_=hops_after, count=100)] * 2,
    }
    finding = hops._finding(bench, found)
    assert finding.verdict is verdict
    assert isinstance(hops._percentiles(found["collapsed"])[1], Estimate)


# ---------------------------------------------------------------- the table and the command


def test_every_claim_of_the_table_has_a_test() -> None:
    assert list(all_tests()) == list(range(1, 10))


def test_runs_are_interleaved_so_that_drift_falls_on_both() -> None:
    assert interleaved("a", "b", 3) == ["a", "b", "b", "a", "a", "b"]


def test_the_report_holds_every_claim_with_its_rule(tmp_path: Path) -> None:
    claim = Claim(7, "a | b", "x=1", "x=2", "a rule")
    finding = Finding(
        claim, Verdict.PARTLY, "1 ms", rows=[{"n": 1}, {"n": 2}], notes=["why"], plots=["p.png"]
    )
    page = report.write([finding, replace(finding, verdict=Verdict.NOT_HERE)], tmp_path, {"seed": 0})
    text = page.read_text()
    assert "a \\| b" in text
    assert "Rule: a rule" in text
    assert "![claim 7](p.png)" in text
    assert [claim["verdict"] for claim in json.loads((tmp_path / "claims.json").read_text())["claims"]] == [
        "partly",
        "not here",
    ]


def test_what_a_machine_cannot_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--claims", "1,4", "--out", str(tmp_path)]) == ExitCode.DONE
    claims = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert [claim["verdict"] for claim in claims] == ["cannot run here"] * 2
    assert all(claim["measured"] for claim in claims)
    assert "claim 4" in capsys.readouterr().out


@pytest.mark.parametrize("numbers", ["10", "six", "5,,6"])
def test_a_claim_that_does_not_exist_is_refused(
    numbers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--claims", numbers, "--out", str(tmp_path)]) == ExitCode.USAGE
    assert "--claims" in capsys.readouterr().err


@pytest.mark.slow
def test_the_serving_path_s_claims_run_here(tmp_path: Path) -> None:
    assert main(["--quick", "--claims", "5,6,7,8", "--out", str(tmp_path)]) == ExitCode.DONE
    claims = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert [claim["number"] for claim in claims] == [5, 6, 7, 8]
    for claim in claims:
        assert claim["rows"]
        assert all((tmp_path / name).exists() for name in claim["plots"])
    for stream_run in claims[1]["data"]["runs"]:
        assert (stream_run["lost_chunks"], stream_run["wrong_texts"]) == (0, 0)
