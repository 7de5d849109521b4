from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.errors import UsageError
from harness.workload.schedule import arrival_offsets_s, order, taken_up


def test_every_item_is_sent_equally_often() -> None:
    sent = Counter(order("abcdefg", requests=24, seed=3))
    assert set(sent) == set("abcdefg")
    assert max(sent.values()) - min(sent.values()) <= 1


def test_the_same_seed_gives_the_same_order() -> None:
    assert order(range(50), 120, seed=1) == order(range(50), 120, seed=1)
    assert order(range(50), 120, seed=1) != order(range(50), 120, seed=2)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        order([], 1, seed=0)


def test_poisson_arrivals_have_the_asked_rate_and_exponential_gaps() -> None:
    offsets = arrival_offsets_s(20_000, rate_per_s=50.0, arrivals="poisson", seed=0)
    gaps = np.diff(offsets)
    assert offsets[0] == 0.0
    assert np.all(gaps >= 0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)  # an exponential's mean is its deviation


def test_constant_arrivals_are_evenly_spaced() -> None:
    offsets = arrival_offsets_s(5, rate_per_s=4.0, arrivals="constant", seed=9)
    assert offsets.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [("given", [0, 1, 2, 3]), ("longest_first", [1, 0, 2, 3]), ("by_length", [3, 0, 2, 1])],
)
def test_an_offline_workload_takes_recordings_up_in_a_stated_order(
    order_by: str, expected: list[int]
) -> None:
    assert taken_up([2.0, 9.0, 2.0, 1.0], order_by) == expected
