"""A queue that grows throughout is told from one that comes and goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.measure.backlog import backlog_reason
from harness.workload.schedule import arrival_offsets_s

SERVICE_S = 0.1


def served(load: float, process: int, requests: int = 120) -> pd.DataFrame:
    """One server, one request at a time; ``load`` is arrivals per second over what it can serve."""
    rng = np.random.default_rng(process)
    arrivals_s = arrival_offsets_s(requests, load / SERVICE_S, "poisson", process)
    service_s = rng.uniform(0.5, 1.5, requests) * SERVICE_S
    finished_s, free_s = np.empty(requests), 0.0
    for i, (arrived_s, takes_s) in enumerate(zip(arrivals_s, service_s, strict=True)):
        free_s = finished_s[i] = max(free_s, arrived_s) + takes_s
    return pd.DataFrame(
        {
            "process": process,
            "scheduled_s": arrivals_s,
            "latency_s": finished_s - arrivals_s,
            "service_s": service_s,
        }
    )


def run(load: float, first: int = 0) -> pd.DataFrame:
    return pd.concat([served(load, first + process) for process in range(3)])


@pytest.mark.parametrize("load", [1.5, 2.0, 4.0])
def test_more_arrivals_than_can_be_served_are_told_with_their_slope(load):
    """Each second brings ``load`` seconds of work: the latest request waits for all but one of them."""
    reason = backlog_reason(run(load))
    assert reason is not None
    assert reason.rule == "backlog"
    assert "workload.rate_per_s" in reason.message
    slope = float(reason.message.split(" s of latency")[0].rsplit(" ", 1)[1])
    assert slope == pytest.approx(load - 1, rel=0.3)


def test_a_server_that_keeps_up_is_seldom_accused():
    """Even at 80 % of what it can serve, where queues are long for a while."""
    assert sum(backlog_reason(run(0.8, first=10 * trial)) is not None for trial in range(40)) <= 1


def test_an_idle_server_and_a_few_requests_are_no_backlog():
    assert backlog_reason(run(0.1)) is None
    assert backlog_reason(served(4.0, 0, requests=4)) is None
    assert backlog_reason(run(4.0).iloc[:0]) is None
