"""Between two processes: work is ``ipc``, waiting ``queue``, and what is neither is in no span."""

from __future__ import annotations

from harness.measure.ledger import balance
from harness.spans import Span
from variants.ipc.types import Times
from variants.topology.item import hop_spans

MS = 1_000_000


def times(sent: int, posted: int, ready: int, found: int, received: int, core_wait: int = 0) -> Times:
    """In milliseconds."""
    return Times(sent * MS, posted * MS, ready * MS, found * MS, received * MS, core_wait * MS)


def hop(of: Times, taken_up: int) -> dict[str, float]:
    """Milliseconds of each name, and of none."""
    balanced = balance(hop_spans(of, taken_up * MS), of.sent_ns, taken_up * MS)
    spent = {name: round(seconds * 1e3) for name, seconds in balanced.seconds.items()}
    return spent | {"unaccounted": round(balanced.unaccounted_s * 1e3)}


def test_what_is_neither_sides_work_is_in_no_span() -> None:
    assert hop(times(10, 12, 0, 92, 95), 96) == {"ipc": 6, "unaccounted": 80}


def test_while_the_receiver_was_busy_the_message_queues() -> None:
    assert hop(times(10, 12, 50, 50, 51), 51) == {"ipc": 3, "queue": 38, "unaccounted": 0}


def test_a_receiver_without_a_core_waits_too() -> None:
    """What it waited before the message was there is not this message's."""
    assert hop(times(10, 12, 0, 20, 21, core_wait=5), 21) == {"ipc": 3, "queue": 5, "unaccounted": 3}
    assert hop(times(10, 12, 0, 20, 21, core_wait=50), 21) == {"ipc": 3, "queue": 8, "unaccounted": 0}
    assert hop(times(10, 12, 15, 20, 21, core_wait=50), 21) == {"ipc": 3, "queue": 8, "unaccounted": 0}


def test_the_senders_work_ends_when_the_message_is_posted() -> None:
    assert hop_spans(times(10, 30, 0, 25, 40), 41 * MS)[0] == Span("ipc", 10 * MS, 30 * MS)
