"""The search for the largest rate, against a server whose capacity is known, in time that is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.measure.stats import TooSmall
from harness.protocols import Reply
from harness.run.rates import search_rate
from harness.workload.loops import Completed
from harness.workload.options import OpenOptions
from harness.workload.schedule import arrival_offsets_s


def server(service_s: float, requests: int = 200, lag_s: float = 0.0, error: str | None = None):  # type: ignore[no-untyped-def]
    """One request at a time, each of ``service_s``: Lindley's recursion instead of a clock."""

    def drive(rate_per_s: float) -> Sequence[Completed]:
        free_s, done = 0.0, []
        for index, at_s in enumerate(arrival_offsets_s(requests, rate_per_s, "poisson", 1)):
            free_s = max(free_s, at_s) + service_s
            start_ns, end_ns = round((free_s - service_s) * 1e9), round(free_s * 1e9)
            reply = Reply(str(index), None, (), start_ns, end_ns, error=error)
            due_ns = round(at_s * 1e9)
            done.append(Completed(index, due_ns, due_ns + round(lag_s * 1e9), reply))
        return done

    return drive


@pytest.mark.parametrize("start_per_s", [0.5, 20.0, 400.0])
def test_the_largest_rate_under_the_limit_is_found_from_wherever_one_starts(start_per_s: float) -> None:
    drive, options = server(0.01), OpenOptions(slo_p95_s=0.05)
    largest, found = search_rate(drive, options, start_per_s, lag_budget_s=0.005)
    assert largest is not None and 20 < largest < 100  # of at most 100 a second
    assert found["smallest_failed_per_s"] <= largest * 1.06 + 0.1
    by_rate = {step["rate_per_s"]: step["passed"] for step in found["steps"]}
    assert by_rate[largest] and not by_rate[found["smallest_failed_per_s"]]

    def p95_s(rate_per_s: float) -> float:
        done = drive(rate_per_s)
        return float(np.sort([(d.reply.finished_ns - d.scheduled_ns) * 1e-9 for d in done])[189])

    assert p95_s(largest) <= 0.05 < p95_s(found["smallest_failed_per_s"])


def test_the_largest_allowed_rate_ends_the_search() -> None:
    largest, found = search_rate(server(0.001), OpenOptions(slo_most_per_s=30.0), 8.0, 0.005)
    assert (largest, found["smallest_failed_per_s"]) == (30.0, None)


@pytest.mark.parametrize(
    ("drive", "why"),
    [
        (server(0.001, error="no audio"), "200 requests failed; the first: no audio"),
        (server(0.001, lag_s=0.1), "100.0 ms late"),
        (server(1.0), "the queue grew throughout"),
        (server(0.001, requests=20), "set workload.requests=59 or more"),
    ],
)
def test_a_rate_that_says_nothing_or_is_not_served_does_not_pass(drive, why: str) -> None:  # type: ignore[no-untyped-def]
    largest, found = search_rate(drive, OpenOptions(), 4.0, 0.005)
    assert largest is None
    assert why in "; ".join(found["steps"][0]["reasons"])


def test_a_step_keeps_its_interval_in_the_record() -> None:
    _, found = search_rate(server(0.001), OpenOptions(slo_most_per_s=4.0), 4.0, 0.005)
    assert found["steps"][0]["p95"]["value"] <= 0.5
    assert not isinstance(found["steps"][0]["p95"], TooSmall)
