"""Claim 7: ``gc.freeze()`` after start-up removes stalls that p50 never shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.claims import plots
from harness.claims.connections import (
    StreamRun,
    below,
    expected_texts,
    pooled,
    recordings_of,
    row_of,
    run_streams,
)
from harness.claims.heap import HEAPS, pause_s
from harness.claims.model import Bench, Claim, Finding, Verdict, interleaved
from harness.claims.services import stream_spec
from harness.measure.stats import Estimate
from harness.measure.text import duration
from harness.protocols.server import ServerPlan
from harness.workload.streaming import StreamingPlan

CLAIM = Claim(
    number=7,
    statement=(
        "gc.freeze() after start-up preallocation removes ~200 ms stalls at p95 while p50/p90 looked healthy"
    ),
    baseline="gc=default",
    variant="gc=frozen",
    rule=(
        "reproduced: p95 of chunk latency falls with gc=frozen, intervals apart, and p50 changes by less "
        "than a fifth. Partly: p99 falls, intervals apart, or the longest collection shrinks tenfold, but "
        "p95 does not tell. Cannot run: the clients could not keep their schedule. Not here: otherwise."
    ),
)
POLICIES = ("default", "frozen")
_WORDS_PER_ANSWER = 20
_ANSWERS_KEPT = 25
_SHARE_OF_CONNECTIONS = 8
"""The claim is about stalls and not about saturation: an eighth of claim 6's streams."""


def test(bench: Bench) -> Finding:
    """Pause against heap size, then live streams with and without ``gc.freeze()``."""
    heaps = [objects for objects in HEAPS if objects <= max(bench.objects, HEAPS[0])]
    bench.say(f"claim 7: full collections of {heaps[0]:,} to {heaps[-1]:,} objects")
    curve = {policy: [pause_s(policy, objects) for objects in heaps] for policy in POLICIES}
    recordings = recordings_of(bench)
    plan = StreamingPlan(
        connections=max(1, bench.connections // _SHARE_OF_CONNECTIONS),
        duration_s=bench.duration_s,
        seed=bench.seed,
        # A stall of the server fills its sockets; the clients must be able to wait for it.
        final_timeout_s=30.0,
    )
    texts = expected_texts(recordings, plan)
    runs: dict[str, list[StreamRun]] = {policy: [] for policy in POLICIES}
    for policy in interleaved(*POLICIES, bench.repeats):
        bench.say(f"claim 7: gc={policy}, {plan.connections} live streams for {plan.duration_s:g} s")
        run = run_streams(policy, _server(policy, bench), plan, recordings, texts)
        runs[policy].append(replace(run, label=f"gc={policy}"))
    return _finding(bench, heaps, curve, runs)


def _server(policy: str, bench: Bench) -> ServerPlan:
    options = {
        "objects": bench.objects,
        "words_per_answer": _WORDS_PER_ANSWER,
        "answers_kept": _ANSWERS_KEPT,
    }
    return ServerPlan(stream_spec({"worker": "caller"}), gc=policy, gc_options=options)


def _finding(
    bench: Bench,
    heaps: Sequence[int],
    curve: Mapping[str, Sequence[float]],
    runs: Mapping[str, Sequence[StreamRun]],
) -> Finding:
    everything = [run for of in runs.values() for run in of]
    notes = sorted({f"{run.label}: {reason}" for run in everything for reason in run.summary.reasons})
    notes.append(
        f"{bench.objects:,} containers exist at start-up; each live session adds {_WORDS_PER_ANSWER} at "
        f"every answer and drops them after {_ANSWERS_KEPT}, as at the end of an utterance. Thresholds are "
        "Python's own."
    )
    notes.append(
        "What is made after gc.freeze() is still collected: the pauses of the frozen runs are those of the "
        "live sessions alone."
    )
    notes.append(
        "Python 3.11 collects when an object is allocated, 3.12 and later between bytecodes (the eval "
        "breaker); generations and the rule for a full collection are the same up to 3.13 (`python -m "
        "harness.claims.heap` gives the pause of any interpreter). 3.14.0 to 3.14.4 collected the old "
        "generation in increments, with shorter pauses and more memory; 3.14.5 and 3.15 went back to the "
        "collector of 3.13 (What's New in Python 3.15)."
    )
    return Finding(
        claim=CLAIM,
        verdict=_verdict(runs),
        measured=_sentence(bench, runs),
        rows=[{**_pauses_of(run), **row_of(run)} for run in everything],
        notes=notes,
        plots=_draw(bench, heaps, curve, runs),
        data={
            "pause_s_by_objects": {
                policy: dict(zip(map(str, heaps), of, strict=True)) for policy, of in curve.items()
            },
            "runs": [
                {"gc": run.label, **run.summary.as_dict(), "evidence": run.evidence} for run in everything
            ],
        },
    )


def _pauses_of(run: StreamRun) -> dict[str, Any]:
    full = run.evidence["gc"]["generations"]["2"]
    return {
        "python": run.evidence["gc"]["python"],
        "full collections": full["collections"],
        "longest": f"{_longest_s([run]) * 1e3:.1f} ms",
    }


def _longest_s(runs: Sequence[StreamRun]) -> float:
    """The longest collection of any generation."""
    generations = [g for run in runs for g in run.evidence["gc"]["generations"].values()]
    return max((generation["max_s"] for generation in generations), default=0.0)


def _verdict(runs: Mapping[str, Sequence[StreamRun]]) -> Verdict:
    everything = [run for of in runs.values() for run in of]
    if any(run.summary.late for run in everything):
        return Verdict.CANNOT_RUN  # the clients were late: nothing is known about the server
    if not all(run.summary.valid for run in everything):
        return Verdict.NOT_HERE
    default, frozen = (pooled(runs[policy]) for policy in POLICIES)
    if not isinstance(default[0], Estimate) or not isinstance(frozen[0], Estimate):
        return Verdict.NOT_HERE
    steady_median = abs(frozen[0].value / default[0].value - 1) < 0.2
    if below(frozen[1], default[1]) and steady_median:
        return Verdict.REPRODUCED
    shrunk = _longest_s(runs["default"]) > 10 * _longest_s(runs["frozen"])
    return Verdict.PARTLY if below(frozen[2], default[2]) or shrunk else Verdict.NOT_HERE


def _sentence(bench: Bench, runs: Mapping[str, Sequence[StreamRun]]) -> str:
    parts = []
    for policy, of in runs.items():
        p50, p95, p99 = map(duration, pooled(of))
        longest = _longest_s(of) * 1e3
        parts.append(f"{policy}: p50 {p50}, p95 {p95}, p99 {p99}, longest collection {longest:.0f} ms")
    return f"{bench.objects:,} objects, {runs['default'][0].summary.connections} live streams. " + "; ".join(
        parts
    )


def _draw(
    bench: Bench,
    heaps: Sequence[int],
    curve: Mapping[str, Sequence[float]],
    runs: Mapping[str, Sequence[StreamRun]],
) -> list[str]:
    figure, (default, frozen, tail) = plots.panels(
        3, f"The collector's stalls, {bench.objects:,} long-lived objects"
    )
    for axes, policy, color in ((default, "default", plots.COLORS[0]), (frozen, "frozen", plots.COLORS[1])):
        run = runs[policy][0]
        full = [p for p in run.pauses if p.generation == 2]
        start_ns = run.result.start_ns
        spans = [
            ((p.start_ns - start_ns) * 1e-9, (p.end_ns - start_ns) * 1e-9)
            for p in full
            if p.start_ns > start_ns
        ]
        label = f"gc={policy} (full collections shaded)"
        plots.timeline(axes, label, run.result.scheduled_s, run.result.latencies_s, color, spans)
    frozen.set_ylim(default.get_ylim())
    plots.distribution(
        tail, {f"gc={p}": np.concatenate([run.result.latencies_s for run in of]) for p, of in runs.items()}
    )
    pauses, (axes,) = plots.panels(1, "One full collection against the size of the start-up heap")
    series = {f"gc={policy}": (heaps, [s * 1e3 for s in of]) for policy, of in curve.items()}
    plots.lines(axes, series, "containers at start-up", "pause, ms")
    return [
        plots.save(figure, bench.folder, "claim7_timeline.png"),
        plots.save(pauses, bench.folder, "claim7_heap.png"),
    ]
