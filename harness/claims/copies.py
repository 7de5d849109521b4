"""Claim 5: shared memory instead of copies and serialization between the processes of one service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.claims import plots
from harness.claims.connections import below
from harness.claims.model import Bench, Claim, Finding, Verdict
from harness.claims.services import Served, recording_spec, serve_closed
from harness.claims.speech import audio_set, samples_of, wav_of
from harness.errors import InvalidMeasurementError
from harness.measure.stats import Measured, TooSmall, percentiles
from harness.measure.text import duration

CLAIM = Claim(
    number=5,
    statement="Shared memory removes hundreds of ms of copying and serialization for large audio",
    baseline="ipc=zeromq",
    variant="ipc=shared_memory",
    rule=(
        "reproduced: for the longest recording the time between processes falls by 100 ms or more, shared "
        "memory copies not one byte of the payload (counted), and the whole request is not slower, intervals "
        "apart. Partly: it falls by half or more, or by 100 ms without the rest. Not here: otherwise."
    ),
)
TRANSPORTS = ("zeromq", "uds_copy", "shared_memory")
_LENGTHS_S = (1.0, 30.0, 600.0, 3600.0)
_REQUESTS = 5
"""In each process: the fewest that bound a median."""
_TOPOLOGY = "microservices"
_DECODER = "decode"
"""The process that receives containers: what reaches it has not been decoded yet."""
_WARM_UPS = 1
_CLAIMED_S = 0.1
Found = dict[tuple[str, float], list[Served]]
"""Transport and length of the recording to what each process gave."""


def test(bench: Bench) -> Finding:
    """The same recordings through the same four processes, linked in three ways."""
    speech = np.concatenate(samples_of(audio_set("voice_agent", 8, bench.seed, bench.cache_dir)))
    config = {"vad": "none", "denoise": "none"}
    lengths = [length for length in _LENGTHS_S if length <= bench.longest_s]
    found: Found = {(ipc, length): [] for length in lengths for ipc in TRANSPORTS}
    for length_s in lengths:
        payload = wav_of(speech, length_s)
        for block in range(bench.repeats):
            # Forth and back, so that drift of the machine falls on all alike.
            for ipc in TRANSPORTS if block % 2 == 0 else reversed(TRANSPORTS):
                bench.say(f"claim 5: ipc={ipc}, {length_s:g} s of audio")
                spec = recording_spec(ipc, config)
                served = serve_closed(_TOPOLOGY, spec, [payload] * _REQUESTS, warm_ups=_WARM_UPS)
                found[ipc, length_s].append(served)
    return _finding(bench, lengths, found)


def _finding(bench: Bench, lengths: Sequence[float], found: Found) -> Finding:
    rows = [_row(ipc, length, found[ipc, length]) for length in lengths for ipc in TRANSPORTS]
    same = all(_same_texts(found, length) for length in lengths)
    before, copies, after = (found[ipc, lengths[-1]] for ipc in TRANSPORTS)
    return Finding(
        claim=CLAIM,
        verdict=_verdict(before, after) if same else Verdict.NOT_HERE,
        measured=(
            f"{lengths[-1]:g} s of audio: {duration(_between(before))} between processes with zeromq, "
            f"{duration(_between(copies))} with copies, {duration(_between(after))} with shared memory, "
            f"which copied {_payload_copies(after[0]):,} bytes a request"
        ),
        rows=rows,
        notes=[
            f"microservices, {_REQUESTS} requests one at a time in each of {bench.repeats} processes; the "
            f"same text from every transport: {same}",
            "bytes are counted from the decoder's output to the model's input, not on the way to the decoder",
        ],
        plots=_draw(bench, lengths, found),
        data={
            "evidence": {
                f"{ipc} {length:g} s": [served.evidence for served in of]
                for (ipc, length), of in found.items()
            }
        },
    )


def _same_texts(found: Found, length_s: float) -> bool:
    return len({text for ipc in TRANSPORTS for served in found[ipc, length_s] for text in served.texts}) == 1


def _verdict(before: Sequence[Served], after: Sequence[Served]) -> Verdict:
    was_s, is_s = _value(_between(before)), _value(_between(after))
    clean = _payload_copies(after[0]) == 0 and not below(_whole(before), _whole(after))
    if was_s - is_s >= _CLAIMED_S and clean:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if was_s - is_s >= min(_CLAIMED_S, was_s / 2) else Verdict.NOT_HERE


def _between(of: Sequence[Served]) -> Measured:
    """Median time of one request between processes: all its ``ipc`` spans."""
    return _median([value for served in of for value in served.span_s("ipc")], of)


def _whole(of: Sequence[Served]) -> Measured:
    return _median([value for served in of for value in served.latencies_s], of)


def _median(values: Sequence[float], of: Sequence[Served]) -> Measured:
    process = np.repeat(np.arange(len(of)), [len(served.replies) for served in of])
    (p50,) = percentiles(values, process, (0.5,))
    return p50


def _value(measured: Measured) -> float:
    if isinstance(measured, TooSmall):
        raise InvalidMeasurementError(f"claim 5: {measured.n} requests do not bound a median")
    return measured.value


def _payload_copies(served: Served) -> int:
    """Bytes copied between memories for one request from the decoder's output to the model's input,
    by the service's own count. The container's way to the decoder is not part of it."""
    ipc = served.evidence["ipc"]
    sent = sum(of["copied_bytes_total"] for name, of in ipc["sent_by"].items() if name != "main")
    received = sum(of["copied_bytes_total"] for name, of in ipc["received_by"].items() if name != _DECODER)
    return int(sent + received) // (_REQUESTS + _WARM_UPS)


def _row(ipc: str, length_s: float, of: Sequence[Served]) -> dict[str, Any]:
    evidence = of[0].evidence["ipc"]
    return {
        "ipc": ipc,
        "audio": f"{length_s:g} s",
        "between processes p50": duration(_between(of)),
        "whole request p50": duration(_whole(of)),
        "passed on a request": f"{evidence['payload_bytes'] // (_REQUESTS + _WARM_UPS):,} B",
        "copied a request": f"{_payload_copies(of[0]):,} B",
        "places": _places(evidence),
    }


def _places(ipc: Mapping[str, Any]) -> str:
    """Where in the code, or in the kernel, bytes were copied after decoding."""
    sent = [of["copied_bytes"] for name, of in ipc["sent_by"].items() if name != "main"]
    received = [of["copied_bytes"] for name, of in ipc["received_by"].items() if name != _DECODER]
    places = {place for counts in (*sent, *received) for place, count in counts.items() if count}
    return ", ".join(sorted(places)) or "none"


def _draw(bench: Bench, lengths: Sequence[float], found: Found) -> list[str]:
    figure, (time, copies) = plots.panels(2, "Between the processes of one service (microservices)")
    plots.lines(
        time,
        {ipc: (lengths, [_value(_between(found[ipc, n])) * 1e3 for n in lengths]) for ipc in TRANSPORTS},
        "seconds of audio",
        "ms between processes, p50",
    )
    copied = {ipc: [_payload_copies(found[ipc, length][0]) for length in lengths] for ipc in TRANSPORTS}
    # A logarithmic axis has no zero: a transport that copies nothing is named in the title instead.
    none = [ipc for ipc, of in copied.items() if not any(of)]
    some = {ipc: (lengths, [max(n, 1) / 2**20 for n in of]) for ipc, of in copied.items() if any(of)}
    plots.lines(copies, some, "seconds of audio", "MiB copied a request")
    if none:
        copies.set_title(f"{', '.join(none)}: not one byte", loc="left", fontsize=9)
    return [plots.save(figure, bench.folder, "claim5_ipc.png")]
