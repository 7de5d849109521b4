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
    route: int = 0
    """Which of the inference processes it is for."""
    batch_id: int = 0
    batch_size: int = 1


def hop_spans(lease: Lease, end_ns: int) -> list[Span]:
    """The time between two processes, up to ``end_ns``, when the work on the item goes on.

    From the sender's beginning it is ``ipc``, except while the receiver was still busy with
    something else: that is ``queue``.
    """
    began_ns = max(lease.sent_ns, lease.ready_ns)
    spans = [Span("ipc", began_ns, end_ns)]
    if began_ns > lease.sent_ns:
        spans.insert(0, Span("queue", lease.sent_ns, began_ns))
    return spans


def since_ns(item: Item) -> int | None:
    """Where the item's last span ends, and its passing on begins."""
    return item.spans[-1].end_ns if item.spans else None
