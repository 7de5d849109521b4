"""Length buckets: the shapes that engines pad to, as labels that sort by length."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_EDGES_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
UNKNOWN = "unknown"


def bucket_label(seconds: float | None, edges_s: Sequence[float]) -> str:
    """The bucket of a length: ``00-01s``, ``01-02s``, ... ``30s+``; ``unknown`` for None.

    ``edges_s`` ascend and are inclusive upper edges, as an engine built for five seconds takes five
    seconds exactly. Labels of one set of edges sort by length as text, ``unknown`` last.
    """
    if seconds is None:
        return UNKNOWN
    lower = 0.0
    for upper in edges_s:
        if seconds <= upper:
            return f"{_number(lower, edges_s)}-{_number(upper, edges_s)}s"
        lower = upper
    return f"{_number(lower, edges_s)}s+"


def bucket_labels(edges_s: Sequence[float]) -> list[str]:
    """Every label that ``bucket_label`` gives to a known length, in order."""
    return [bucket_label(edge, edges_s) for edge in (*edges_s, float("inf"))]


def _number(value: float, edges_s: Sequence[float]) -> str:
    """``value`` with its whole part padded to the width of the longest edge, two digits at least."""
    width = max(2, len(str(int(max(edges_s, default=0)))))
    whole, dot, fraction = f"{value:.10g}".partition(".")
    return whole.zfill(width) + dot + fraction
