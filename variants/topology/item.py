"""What travels between the processes of a service: a job, how far it has got, and where its time went."""

from __future__ import annotations

from typing import Any, NamedTuple

from harness.spans import Span
from variants.ipc.types import Times
from variants.topology.types import Kind


class Item(NamedTuple):
    """``value`` is what the next stage takes, and in the end what the job asked for.

    A ``batch`` is a list of items of live audio that happened to wait together.
    ``started_ns`` is when the first process turned to it, ``finished_ns`` when the last was done.
    """

    kind: Kind
    job_id: int
    stream_id: int
    value: Any
    spans: tuple[Span, ...] = ()
    error: str | None = None
    segments: int = 0
    speech_s: float = 0.0
    started_ns: int = 0
    finished_ns: int = 0
    route: int = 0
    """Which of the inference processes it is for."""
    batch_id: int = 0
    batch_size: int = 1


def hop_spans(times: Times, taken_up_ns: int) -> list[Span]:
    """Of the time between two processes what was work of either, ``ipc``, and what was waiting:
    ``queue``, while the receiver was busy with something else or had no core. The rest is in no span.
    The receiver's work ends at ``taken_up_ns``, when that on the item begins."""
    spans = [Span("ipc", times.sent_ns, times.posted_ns)]
    if times.ready_ns > times.posted_ns:
        spans.append(Span("queue", times.posted_ns, times.ready_ns))
    idle_from_ns = max(times.posted_ns, times.ready_ns)
    runnable_ns = max(idle_from_ns, times.found_ns - times.core_wait_ns)
    if runnable_ns < times.found_ns:
        spans.append(Span("queue", runnable_ns, times.found_ns))
    return [*spans, Span("ipc", times.found_ns, taken_up_ns)]
