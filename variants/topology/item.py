"""What travels between the processes of a service: a job, how far it has got, and where its time went."""

from __future__ import annotations

from typing import Any, NamedTuple

from harness.spans import Span
from variants.ipc.types import Lease
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


def hop_spans(lease: Lease) -> list[Span]:
    """The time between two processes.

    From the sender's beginning to the receiver's end it is ``ipc``; as long as the receiver was
    still busy with something else, it is ``queue``.
    """
    began_ns = max(lease.sent_ns, lease.ready_ns)
    spans = [Span("ipc", began_ns, lease.received_ns)]
    if began_ns > lease.sent_ns:
        spans.insert(0, Span("queue", lease.sent_ns, began_ns))
    return spans
