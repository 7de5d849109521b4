"""Claim 5: shared memory instead of copies and serialization between the processes of one service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.claims import plots
from harness.claims.model import Bench, Claim, Finding, Verdict
from harness.claims.services import Served, recording_spec, serve_closed
from harness.claims.speech import audio_set, samples_of, wav_of
from harness.frontend.config import FrontendConfig
from harness.measure.stats import Measured, percentiles
from harness.measure.text import duration

CLAIM = Claim(
    number=5,
    statement="Shared memory removes hundreds of ms of copying and serialization for large audio",
    baseline="ipc=zeromq",
    variant="ipc=shared_memory",
    rule=(
        "reproduced: for the longest recording the time between processes falls by 100 ms or more, and "
        "shared memory copies not one byte of the payload (counted). Partly: it falls by half or more, or "
        "without the copies gone. Not here: otherwise."
    ),
)
TRANSPORTS = ("zeromq", "uds_copy", "shared_memory")
_LENGTHS_S = (1.0, 30.0, 600.0, 3600.0)
_REQUESTS = 5
"""The fewest that bound a median."""
_TOPOLOGY = "microservices"
_DECODER = "decode"
"""The process that receives containers: what reaches it has not been decoded yet."""
_WARM_UPS = 1
_CLAIMED_S = 0.1


def test(bench: Bench) -> Finding:
    """The same recordings through the same four processes, linked in three ways."""
    speech = np.concatenate(samples_of(audio_set("voice_agent", 8, bench.seed, bench.cache_dir)))
    config = FrontendConfig(vad="none", denoise="none")
    lengths = [length for length in _LENGTHS_S if length <= bench.longest_s]
    found: dict[tuple[str, float], Served] = {}
    for length_s in lengths:
        payload = wav_of(speech, length_s)
        for ipc in TRANSPORTS:
            bench.say(f"claim 5: ipc={ipc}, {length_s:g} s of audio")
            spec = recording_spec(ipc, config)
            found[ipc, length_s] = serve_closed(_TOPOLOGY, spec, [payload] * _REQUESTS, warm_ups=_WARM_UPS)
    return _finding(bench, lengths, found)


def _finding(bench: Bench, lengths: Sequence[float], found: Mapping[tuple[str, float], Served]) -> Finding:
    same = all(
        len({text for ipc in TRANSPORTS for text in found[ipc, length].texts}) == 1 for length in lengths
    )
    rows = [_row(ipc, length, found[ipc, length]) for length in lengths for ipc in TRANSPORTS]
    longest = lengths[-1]
    notes = [f"microservices, {_REQUESTS} requests one at a time; the same text from every transport: {same}"]
    saved_s = _median(found["zeromq", longest]) - _median(found["shared_memory", longest])
    copied = _payload_copies(found["shared_memory", longest])
    share = saved_s / max(1e-9, _median(found["zeromq", longest]))
    return Finding(
        claim=CLAIM,
        verdict=_verdict(same, saved_s, share, copied),
        measured=(
            f"{longest:g} s of audio: {duration(_between(found['zeromq', longest]))} between processes with "
            f"zeromq, {duration(_between(found['uds_copy', longest]))} with copies, "
            f"{duration(_between(found['shared_memory', longest]))} with shared memory, which copied "
            f"{copied:,} bytes a request"
        ),
        rows=rows,
        notes=notes,
        plots=_draw(bench, lengths, found),
        data={
            "evidence": {f"{ipc} {length:g} s": served.evidence for (ipc, length), served in found.items()}
        },
    )


def _verdict(same: bool, saved_s: float, share: float, copied: int) -> Verdict:
    if not same or share <= 0:
        return Verdict.NOT_HERE
    if saved_s >= _CLAIMED_S and copied == 0:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if share >= 0.5 or saved_s >= _CLAIMED_S else Verdict.NOT_HERE


def _between(served: Served) -> Measured:
    """Median time of one request between processes: all its ``ipc`` spans."""
    values = served.span_s("ipc")
    (p50,) = percentiles(values, np.zeros(len(values)), (0.5,))
    return p50


def _median(served: Served) -> float:
    return float(np.sort(served.span_s("ipc"))[(_REQUESTS - 1) // 2])


def _payload_copies(served: Served) -> int:
    """Bytes copied between memories for one request from the decoder's output to the model's input,
    by the service's own count. The container's way to the decoder is not part of it."""
    ipc = served.evidence["ipc"]
    sent = sum(of["copied_bytes_total"] for name, of in ipc["sent_by"].items() if name != "main")
    received = sum(of["copied_bytes_total"] for name, of in ipc["received_by"].items() if name != _DECODER)
    return int(sent + received) // (_REQUESTS + _WARM_UPS)


def _row(ipc: str, length_s: float, served: Served) -> dict[str, Any]:
    ipc_evidence = served.evidence["ipc"]
    (whole,) = percentiles(served.latencies_s, np.zeros(len(served.latencies_s)), (0.5,))
    return {
        "ipc": ipc,
        "audio": f"{length_s:g} s",
        "between processes p50": duration(_between(served)),
        "whole request p50": duration(whole),
        "passed on a request": f"{ipc_evidence['payload_bytes'] // (_REQUESTS + _WARM_UPS):,} B",
        "copied a request": f"{_payload_copies(served):,} B",
        "places": _places(ipc_evidence),
    }


def _places(ipc: Mapping[str, Any]) -> str:
    """Where in the code, or in the kernel, bytes were copied after decoding."""
    sent = [of["copied_bytes"] for name, of in ipc["sent_by"].items() if name != "main"]
    received = [of["copied_bytes"] for name, of in ipc["received_by"].items() if name != _DECODER]
    places = {place for counts in (*sent, *received) for place, count in counts.items() if count}
    return ", ".join(sorted(places)) or "none"


def _draw(bench: Bench, lengths: Sequence[float], found: Mapping[tuple[str, float], Served]) -> list[str]:
    figure, (time, copies) = plots.panels(2, "Between the processes of one service (microservices)")
    plots.lines(
        time,
        {ipc: (lengths, [_median(found[ipc, length]) * 1e3 for length in lengths]) for ipc in TRANSPORTS},
        "seconds of audio",
        "ms between processes, p50",
    )
    copied = {ipc: [_payload_copies(found[ipc, length]) for length in lengths] for ipc in TRANSPORTS}
    # A logarithmic axis has no zero: a transport without copies is named instead.
    plots.lines(
        copies,
        {
            ipc if any(of) else f"{ipc} (none)": (lengths, [max(n, 1) / 2**20 for n in of])
            for ipc, of in copied.items()
            if any(of)
        },
        "seconds of audio",
        "MiB copied a request",
    )
    return [plots.save(figure, bench.folder, "claim5_ipc.png")]
