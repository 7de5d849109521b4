"""How steady this machine is at this moment: the same work again and again, and sleeps that end in time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import numpy as np

from harness.doctor.findings import Complaint, Fact, Finding
from harness.measure.stats import nearest_rank
from harness.measure.text import seconds
from harness.spans import now_ns

_REPEATS = 299
"""Enough for a p99."""
_BLOCK = bytes(1 << 20)
_SPREAD = 1.10
_LATE_S = 0.005
"""The lag that an open loop or live streams forgive (``workload.lag_budget_s``)."""
_SLEEP_S = 0.002


def findings() -> Iterator[Finding]:
    """Takes about a second."""
    work, late = _work_s(), _late_s()
    middle, high, top = (nearest_rank(work, q) for q in (0.5, 0.95, 0.99))
    yield Fact(
        "same work", f"p50 {seconds(middle)}, p95 {high / middle:.2f} and p99 {top / middle:.2f} times that"
    )
    if high / middle > _SPREAD:
        yield Complaint(
            f"the same work takes {high / middle - 1:.0%} longer at p95 than at p50",
            "see the other complaints; interleave variants (harness.interleave) and use more processes",
        )
    lag = nearest_rank(late, 0.99)
    yield Fact("wake-ups", f"p50 {seconds(nearest_rank(late, 0.5))}, p99 {seconds(lag)} late")
    if lag > _LATE_S:
        yield Complaint(
            f"a sleeping thread wakes up {seconds(lag)} late at p99, more than a load generator may be",
            "free a core for the clients, or lower the rate",
        )


def _work_s() -> np.ndarray:
    """Seconds of hashing one MiB, float64 ``[repeats]``."""
    taken = np.empty(_REPEATS)
    for n in range(_REPEATS):
        began_ns = now_ns()
        hashlib.sha256(_BLOCK).digest()
        taken[n] = (now_ns() - began_ns) * 1e-9
    return taken


def _late_s() -> np.ndarray:
    """How much later than asked for a sleep ends, float64 ``[repeats]``."""
    late = np.empty(_REPEATS)
    for n in range(_REPEATS):
        due_ns = now_ns() + round(_SLEEP_S * 1e9)
        time.sleep(_SLEEP_S)
        late[n] = (now_ns() - due_ns) * 1e-9
    return late
