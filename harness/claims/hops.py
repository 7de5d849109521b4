"""Claim 8: fewer processes and fewer hops on the way from bytes to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.claims import plots
from harness.claims.connections import below
from harness.claims.model import Bench, Claim, Finding, Verdict, interleaved
from harness.claims.services import Served, recording_spec, serve_closed
from harness.claims.speech import audio_set
from harness.measure.stats import Measured, percentiles
from harness.measure.text import duration

CLAIM = Claim(
    number=8,
    statement="Fewer processes, fewer hops: preprocessing collapsed from 3-4 microservices",
    baseline="topology=microservices",
    variant="topology=collapsed",
    rule=(
        "reproduced: collapsed has fewer hops and its p50 and p95 both lie below those of microservices, "
        "intervals apart, with the same texts. Partly: one of the two does. Not here: otherwise."
    ),
)
TOPOLOGIES = ("microservices", "collapsed")
_IPC = "zeromq"
"""What both had before shared memory; the other transports are claim 5's."""
_ITEMS = 16


def test(bench: Bench) -> Finding:
    """Whole recordings, one at a time, through both topologies; the model costs nothing."""
    recordings = [item.read() for item in audio_set("voice_agent", _ITEMS, bench.seed, bench.cache_dir).items]
    payloads = [recordings[i % len(recordings)] for i in range(bench.requests)]
    config = {"vad": "webrtc", "denoise": "webrtc"}
    found: dict[str, list[Served]] = {topology: [] for topology in TOPOLOGIES}
    for topology in interleaved(*TOPOLOGIES, bench.repeats):
        bench.say(f"claim 8: topology={topology}, {len(payloads)} recordings")
        found[topology].append(serve_closed(topology, recording_spec(_IPC, config), payloads, warm_ups=3))
    return _finding(bench, found)


def _finding(bench: Bench, found: Mapping[str, Sequence[Served]]) -> Finding:
    figures = {topology: _percentiles(of) for topology, of in found.items()}
    texts = {served.texts for of in found.values() for served in of}
    hops = {topology: of[0].evidence["topology"]["hops_per_request"] for topology, of in found.items()}
    return Finding(
        claim=CLAIM,
        verdict=_verdict(figures, hops, len(texts) == 1),
        measured="; ".join(
            f"{topology}: {hops[topology]} hops, p50 {duration(p50)}, p95 {duration(p95)}"
            for topology, (p50, p95) in figures.items()
        ),
        rows=[_row(topology, of, figures[topology]) for topology, of in found.items()],
        notes=[
            f"ipc={_IPC}, {bench.requests} requests in each of {bench.repeats} processes, one at a time, "
            "WebRTC noise filter and voice detector, an engine without cost",
            f"the same text from both: {len(texts) == 1}",
        ],
        plots=_draw(bench, found),
        data={"evidence": {topology: [served.evidence for served in of] for topology, of in found.items()}},
    )


def _percentiles(of: Sequence[Served]) -> tuple[Measured, Measured]:
    values = np.concatenate([served.latencies_s for served in of])
    process = np.concatenate([np.full(len(served.latencies_s), i) for i, served in enumerate(of)])
    p50, p95 = percentiles(values, process, (0.5, 0.95))
    return p50, p95


def _verdict(
    figures: Mapping[str, tuple[Measured, Measured]], hops: Mapping[str, int], same_texts: bool
) -> Verdict:
    before, after = (figures[topology] for topology in TOPOLOGIES)
    if not same_texts or hops["collapsed"] >= hops["microservices"]:
        return Verdict.NOT_HERE
    better = [below(now, then) for now, then in zip(after, before, strict=True)]
    if all(better):
        return Verdict.REPRODUCED
    return Verdict.PARTLY if any(better) else Verdict.NOT_HERE


def _row(topology: str, of: Sequence[Served], figures: tuple[Measured, Measured]) -> dict[str, Any]:
    evidence = of[0].evidence
    jobs = max(1, evidence["topology"]["jobs"])
    between = [value for served in of for value in served.span_s("ipc")]
    process = np.concatenate([np.full(len(served.replies), i) for i, served in enumerate(of)])
    (ipc,) = percentiles(between, process, (0.5,))
    return {
        "topology": topology,
        "processes": evidence["topology"]["processes"],
        "hops a request": evidence["topology"]["hops_per_request"],
        "copied a request": f"{evidence['ipc']['copied_bytes_total'] // jobs:,} B",
        "between processes p50": duration(ipc),
        "p50": duration(figures[0]),
        "p95": duration(figures[1]),
    }


def _draw(bench: Bench, found: Mapping[str, Sequence[Served]]) -> list[str]:
    figure, (axes,) = plots.panels(1, "Latency of a whole recording through both topologies")
    samples = {
        t: np.concatenate([np.asarray(served.latencies_s) for served in of]) for t, of in found.items()
    }
    plots.distribution(axes, samples)
    axes.set_xlabel("latency of a request, ms")
    return [plots.save(figure, bench.folder, "claim8_topology.png")]
