"""The largest rate of arrivals of recordings under which p95 holds: ``workload=open workload.search=slo``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.measure.backlog import growth_of
from harness.measure.stats import Measured, TooSmall, nearest_rank, percentiles
from harness.workload.loops import Completed
from harness.workload.options import OpenOptions
from harness.workload.search import bracket

_GRAIN_PER_S = 0.1
"""Rates are tried in whole multiples of it."""

Drive = Callable[[float], Sequence[Completed]]
"""Let requests arrive at a rate; what came of each, failures included."""


@dataclass(frozen=True)
class RateStep:
    """One rate that was tried; ``reasons`` say why it did not pass."""

    rate_per_s: float
    p95: Measured
    passed: bool
    reasons: tuple[str, ...]


def search_rate(
    drive: Drive,
    options: OpenOptions,
    start_per_s: float,
    lag_budget_s: float,
    on_step: Callable[[RateStep], None] = lambda _step: None,
) -> tuple[float | None, dict[str, Any]]:
    """The largest rate that passed, None where none did, and the record of the search in JSON types."""
    steps: list[RateStep] = []

    def passes(grains: int) -> bool:
        rate_per_s = grains * _GRAIN_PER_S
        steps.append(_judged(rate_per_s, drive(rate_per_s), options.slo_p95_s, lag_budget_s))
        on_step(steps[-1])
        return steps[-1].passed

    start, most = (max(1, round(rate / _GRAIN_PER_S)) for rate in (start_per_s, options.slo_most_per_s))
    low, high = bracket(passes, start, most)
    largest = low * _GRAIN_PER_S if low else None
    failed = high * _GRAIN_PER_S if high > low else None
    found = {"limit_s": options.slo_p95_s, "largest_per_s": largest, "smallest_failed_per_s": failed}
    return largest, {**found, "steps": [asdict(step) for step in steps]}


def _judged(
    rate_per_s: float, completed: Sequence[Completed], limit_s: float, lag_budget_s: float
) -> RateStep:
    done = sorted(completed, key=lambda each: each.scheduled_ns)
    scheduled_s = np.array([each.scheduled_ns for each in done]) * 1e-9
    latency_s = np.array([each.reply.finished_ns for each in done]) * 1e-9 - scheduled_s
    lag_s = np.array([each.dispatched_ns - each.scheduled_ns for each in done]) * 1e-9
    service_s = [(each.reply.finished_ns - each.reply.started_ns) * 1e-9 for each in done]
    (p95,) = percentiles(latency_s, np.zeros(len(done)), [0.95])
    reasons = []
    if failed := [each.reply.error for each in done if each.reply.error is not None]:
        reasons.append(f"{len(failed)} requests failed; the first: {failed[0]}")
    if (late_s := nearest_rank(lag_s, 0.99)) > lag_budget_s:
        reasons.append(f"the load generator was {late_s * 1e3:.1f} ms late at p99")
    if growth_of(scheduled_s, latency_s, nearest_rank(service_s, 0.5)) is not None:
        reasons.append("the queue grew throughout")
    if isinstance(p95, TooSmall):
        reasons.append(f"{p95.n} requests are too few for p95: set workload.requests={p95.needed} or more")
    elif p95.value > limit_s:
        reasons.append(f"p95 {p95.value * 1e3:.1f} ms over the limit of {limit_s * 1e3:g} ms")
    return RateStep(rate_per_s, p95, not reasons, tuple(reasons))
