"""Claim 6: one epoll thread for thousands of connections instead of a thread for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.claims import plots
from harness.claims.model import Bench, Claim, Finding, Verdict, interleaved
from harness.claims.services import fixed_cost_engine, stream_spec
from harness.claims.speech import audio_set, samples_of
from harness.measure.stats import Estimate, Measured
from harness.measure.text import duration
from harness.protocols.engine import hear
from harness.protocols.server import CollectorPause, ServerPlan
from harness.workload.intervals import block_percentiles
from harness.workload.server_process import ServerProcess
from harness.workload.streaming import (
    QS,
    SloResult,
    StreamingPlan,
    StreamingResult,
    StreamingSummary,
    fit,
    search_slo,
    stream_load,
)

CLAIM = Claim(
    number=6,
    statement="One epoll thread for thousands of connections instead of a thread each: steadier p95",
    baseline="io=threads",
    variant="io=epoll",
    rule=(
        "reproduced: epoll serves the stated number of live streams on one thread in valid runs without a "
        "lost chunk, and its p95 lies below that of threads, intervals apart, or threads do not hold that "
        "number at all. Partly: it serves them, but the p95 are not told apart. Cannot run: the machine was "
        "too busy for the clients to keep their schedule. Not here: otherwise."
    ),
)
_RECORDINGS = 16
_SEARCH_S = 6.0
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StreamRun:
    """One run of live streams against one server process."""

    label: str
    result: StreamingResult
    summary: StreamingSummary
    evidence: Mapping[str, Any]
    pauses: tuple[CollectorPause, ...]


def recordings_of(bench: Bench) -> list[Samples]:
    """Real speech: turns of the voice-agent set."""
    return samples_of(audio_set("voice_agent", _RECORDINGS, bench.seed, bench.cache_dir))


def expected_texts(recordings: Sequence[Samples], plan: StreamingPlan) -> list[str]:
    """The final text of each recording, from an engine that was given it in one piece."""
    return [hear(fixed_cost_engine(), fit(recording, plan)).text for recording in recordings]


def run_streams(
    label: str, server: ServerPlan, plan: StreamingPlan, recordings: Sequence[Samples], texts: Sequence[str]
) -> StreamRun:
    """One process, one load, what came of both."""
    with ServerProcess(server) as process:
        result = stream_load(process.address, recordings, plan)
        ended = process.stop()
    return StreamRun(label, result, result.summary(texts), ended.evidence, ended.pauses)


def pooled(runs: Sequence[StreamRun]) -> tuple[Measured, Measured, Measured]:
    """p50, p95 and p99 of all runs of one variant: seconds resampled within runs, runs among them."""
    values = np.concatenate([run.result.latencies_s for run in runs])
    blocks = np.concatenate([run.result.scheduled_s.astype(np.int64) for run in runs])
    numbers = np.concatenate([np.full(len(run.result.latencies_s), i) for i, run in enumerate(runs)])
    p50, p95, p99 = block_percentiles(values, blocks, QS, runs=numbers)
    return p50, p95, p99


def row_of(run: StreamRun) -> dict[str, Any]:
    """A run as a row of the table."""
    summary, io = run.summary, run.evidence["io"]
    chunks = max(1, summary.chunks)
    return {
        "variant": run.label,
        "connections": summary.connections,
        "valid": summary.valid,
        "chunks": summary.chunks,
        "lost": summary.lost_chunks,
        "wrong texts": summary.wrong_texts,
        "lag p99": f"{summary.lag_p99_s * 1e3:.2f} ms",
        "p50": duration(summary.p50),
        "p95": duration(summary.p95),
        "p99": duration(summary.p99),
        "max": f"{summary.max_s * 1e3:.1f} ms",
        "jitter p50": _ms(summary.jitter_p50_s),
        "first text p50": _ms(summary.first_text_p50_s),
        "final p95": _ms(summary.final_p95_s),
        "worst stream p95": _ms(summary.worst_connection_p95_s),
        "threads": io["process_threads"],
        "switches per chunk": round((io["voluntary_switches"] + io["involuntary_switches"]) / chunks, 2),
        "server CPU per chunk": f"{run.evidence['process']['cpu_s'] / chunks * 1e6:.0f} µs",
        "server peak memory": f"{run.evidence['process']['peak_rss_bytes'] / 2**20:.0f} MiB",
    }


def below(first: Measured, second: Measured) -> bool:
    """Whether ``first`` lies under ``second`` with their intervals apart."""
    return isinstance(first, Estimate) and isinstance(second, Estimate) and first.high < second.low


def test(bench: Bench) -> Finding:
    """Both servers under the same load, interleaved; a search for threads' limit if they fail it."""
    recordings = recordings_of(bench)
    plan = StreamingPlan(connections=bench.connections, duration_s=bench.duration_s, seed=bench.seed)
    texts = expected_texts(recordings, plan)
    runs: dict[str, list[StreamRun]] = {"threads": [], "epoll": []}
    for io in interleaved("threads", "epoll", bench.repeats):
        bench.say(f"claim 6: {io}, {plan.connections} live streams for {plan.duration_s:g} s")
        runs[io].append(run_streams(io, _server(io), plan, recordings, texts))
    searched = None
    if not any(run.summary.valid for run in runs["threads"]):
        searched = _limit_of("threads", bench, plan, recordings)
    return _finding(bench, runs, searched)


def _server(io: str) -> ServerPlan:
    # The engine runs in the connection's thread: both servers would otherwise share the
    # interpreter's lock with a worker, and that contention is not what the claim is about.
    return ServerPlan(stream_spec({"worker": "caller"}), io=io)


def _limit_of(io: str, bench: Bench, plan: StreamingPlan, recordings: Sequence[Samples]) -> SloResult:
    """The largest number of streams that a server holds with p95 under one chunk."""
    short = replace(plan, duration_s=min(_SEARCH_S, plan.duration_s))
    texts = expected_texts(recordings, short)

    def measure(connections: int) -> StreamingSummary:
        bench.say(f"claim 6: {io}, looking for its limit, {connections} live streams")
        return run_streams(
            io, _server(io), replace(short, connections=connections), recordings, texts
        ).summary

    return search_slo(measure, plan.chunk_s, plan.connections // 4, plan.connections, resolution=0.1)


def _finding(bench: Bench, runs: Mapping[str, Sequence[StreamRun]], searched: SloResult | None) -> Finding:
    valid = {io: [run for run in of if run.summary.valid] for io, of in runs.items()}
    everything = [run for of in runs.values() for run in of]
    notes = sorted({f"{run.label}: {reason}" for run in everything for reason in run.summary.reasons})
    if searched is not None:
        notes.append(
            f"threads do not hold {bench.connections} streams; the largest number found is {searched.largest}"
        )
    return Finding(
        claim=CLAIM,
        verdict=_verdict(runs),
        measured=_sentence(bench, valid, searched),
        rows=[row_of(run) for run in everything],
        notes=notes,
        plots=_draw(bench, runs),
        data={
            "runs": [
                {"io": run.label, **run.summary.as_dict(), "evidence": run.evidence} for run in everything
            ],
            "search": [
                {"connections": step.connections, "passed": step.passed, "reasons": list(step.reasons)}
                for step in (searched.steps if searched else ())
            ],
        },
    )


def _verdict(runs: Mapping[str, Sequence[StreamRun]]) -> Verdict:
    if any(run.summary.late for run in runs["epoll"]):
        return Verdict.CANNOT_RUN  # the clients were late: nothing is known about the server
    valid = {io: [run for run in of if run.summary.valid] for io, of in runs.items()}
    if len(valid["epoll"]) < len(runs["epoll"]):
        return Verdict.NOT_HERE
    if not valid["threads"]:
        return Verdict.REPRODUCED
    p95 = {io: pooled(of)[1] for io, of in valid.items()}
    return Verdict.REPRODUCED if below(p95["epoll"], p95["threads"]) else Verdict.PARTLY


def _sentence(bench: Bench, valid: Mapping[str, Sequence[StreamRun]], searched: SloResult | None) -> str:
    parts = []
    for io, of in valid.items():
        if of:
            parts.append(f"p95 {duration(pooled(of)[1])} on {io}")
        elif io == "threads" and searched is not None and searched.largest:
            parts.append(f"threads hold {searched.largest}")
        else:
            parts.append(f"no valid run on {io}")
    return f"{bench.connections} live streams, 100 ms chunks: " + "; ".join(parts)


def _draw(bench: Bench, runs: Mapping[str, Sequence[StreamRun]]) -> list[str]:
    title = f"Latency of a chunk, {bench.connections} live streams on two kinds of server"
    figure, (tail, threads, epoll) = plots.panels(3, title)
    plots.distribution(
        tail, {io: np.concatenate([run.result.latencies_s for run in of]) for io, of in runs.items()}
    )
    for axes, io, color in ((threads, "threads", plots.COLORS[0]), (epoll, "epoll", plots.COLORS[1])):
        result = runs[io][0].result
        plots.timeline(axes, f"io={io}", result.scheduled_s, result.latencies_s, color, ())
    return [plots.save(figure, bench.folder, "claim6_connections.png")]


def _ms(value: float | None) -> str:
    return "n too small" if value is None else f"{value * 1e3:.1f} ms"
