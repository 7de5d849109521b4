"""The ledger of a request: what its spans explain of its wall time, and what nothing explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from harness.measure.stats import nearest_rank
from harness.record import Reason
from harness.spans import Span

MAX_UNACCOUNTED_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Balance:
    """Seconds per span name within the wall time, and the seconds that no span covers.

    Spans of different processes may overlap: each name has its full share, so the names may sum to
    more than the wall time. ``unaccounted_s`` counts covered time once.
    """

    wall_s: float
    seconds: Mapping[str, float]
    unaccounted_s: float


def balance(spans: Iterable[Span], start_ns: int, end_ns: int) -> Balance:
    """Balance one request over ``[start_ns, end_ns]`` of the monotonic clock.

    ``start_ns`` is the scheduled arrival, or in a closed loop the dispatch: the wall time is the
    latency. Parts of spans outside of it belong to no request and are cut off.
    """
    if end_ns < start_ns:
        raise ValueError(f"a request ends ({end_ns}) before it starts ({start_ns})")
    clipped = sorted(
        (max(span.start_ns, start_ns), min(span.end_ns, end_ns), span.name)
        for span in spans
        if span.end_ns > start_ns and span.start_ns < end_ns
    )
    seconds: dict[str, float] = {}
    covered_ns, reached_ns = 0, start_ns
    for begin, end, name in clipped:
        seconds[name] = seconds.get(name, 0.0) + (end - begin) * 1e-9
        covered_ns += max(0, end - max(begin, reached_ns))
        reached_ns = max(reached_ns, end)
    wall_ns = end_ns - start_ns
    return Balance(wall_ns * 1e-9, seconds, (wall_ns - covered_ns) * 1e-9)


def unaccounted_share(measured: pd.DataFrame) -> float | None:
    """Median ``unaccounted_s`` over median ``latency_s``; ``None`` without samples."""
    if measured.empty:
        return None
    latency_s = nearest_rank(measured["latency_s"], 0.5)
    return nearest_rank(measured["unaccounted_s"], 0.5) / latency_s if latency_s > 0 else None


def ledger_reason(measured: pd.DataFrame) -> Reason | None:
    """Why the run is INVALID, or ``None`` when the ledger balances.

    The rule: over all measured requests that succeeded, the median of ``unaccounted_s`` is at most
    3 % of the median of ``latency_s``.
    """
    share = unaccounted_share(measured)
    if share is not None and share <= MAX_UNACCOUNTED_SHARE:
        return None
    if share is None:
        return Reason(
            "ledger", "no request succeeded, so nothing was measured; see the errors of the samples"
        )
    return Reason(
        "ledger",
        f"{share:.1%} of the median latency is in no span (limit {MAX_UNACCOUNTED_SHARE:.0%}); "
        "wrap the missing work in a span of harness.spans.SPAN_NAMES",
    )
