"""Whether an open loop's queue grew throughout: then latency measures how long the run was.

Work that arrives faster than it is served waits longer and longer. A queue that comes and goes (a burst, a
server near its limit) does not grow in every part of the run, nor in most of its processes, each of
which has a schedule of its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.measure.stats import Floats, nearest_rank
from harness.record import Reason

_PARTS = 4
_REQUESTS_DEEP = 5.0
"""How many usual services longer the wait is at the end than at the start, at least."""
_LEAST_SLOPE = 0.05
"""A second of latency for each twenty of the run: arrivals 5 % above what is served."""


def backlog_reason(measured: pd.DataFrame) -> Reason | None:
    """The rule that a growing queue breaks, with the slope; ``None`` where most processes kept up.

    ``measured`` has the columns ``process``, ``scheduled_s``, ``latency_s`` and ``service_s``.
    """
    slopes = [growth(rows) for _, rows in measured.groupby("process")]
    growing = [slope for slope in slopes if slope is not None]
    if not slopes or 2 * len(growing) <= len(slopes):
        return None
    slope = nearest_rank(growing, 0.5)
    return Reason(
        "backlog",
        f"the queue grew throughout in {len(growing)} of {len(slopes)} processes, by {slope:.2f} s of "
        "latency for each second of arrivals: its latencies say how long the run was; "
        "lower workload.rate_per_s",
    )


def growth(rows: pd.DataFrame) -> float | None:
    """Seconds of latency added per second of the schedule (least squares), where each quarter of the
    arrivals waited longer than the one before; ``None`` where the queue came and went."""
    rows = rows.sort_values("scheduled_s")
    if rows.empty:
        return None
    arrived_s, latency_s = (rows[name].to_numpy(np.float64) for name in ("scheduled_s", "latency_s"))
    return growth_of(arrived_s, latency_s, nearest_rank(rows["service_s"], 0.5))


def growth_of(arrived_s: Floats, latency_s: Floats, usual_s: float) -> float | None:
    """The same of latencies in the order of their arrivals; ``usual_s`` is that of a service."""
    if len(latency_s) < 2 * _PARTS:
        return None
    waited = [nearest_rank(part, 0.5) for part in np.array_split(latency_s, _PARTS)]
    if (np.diff(waited) <= 0).any() or waited[-1] - waited[0] < _REQUESTS_DEEP * usual_s:
        return None
    slope = float(np.polyfit(arrived_s - arrived_s[0], latency_s, 1)[0])
    return slope if slope >= _LEAST_SLOPE else None
