"""Lengths follow their distribution even in small sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus.lengths import AroundEdges, LogNormal, Uniform, apportion, deal


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_small_log_normal_set_has_the_median_and_spread_of_its_distribution() -> None:
    lengths = LogNormal(median_s=3.0, sigma=0.65, min_s=0.1, max_s=60.0).sample(40, rng())
    assert np.median(lengths) == pytest.approx(3.0, rel=0.05)
    assert np.std(np.log(lengths)) == pytest.approx(0.65, rel=0.1)


def test_truncation_leaves_no_pile_at_the_bounds() -> None:
    lengths = LogNormal(median_s=3.0, sigma=1.0, min_s=2.0, max_s=4.0).sample(200, rng())
    assert lengths.min() >= 2.0
    assert lengths.max() <= 4.0
    assert len(np.unique(lengths)) == 200


def test_uniform_puts_one_length_in_each_equal_part() -> None:
    lengths = np.sort(Uniform(1.0, 11.0).sample(10, rng()))
    assert np.array_equal(np.floor(lengths), np.arange(1, 11))


def test_around_edges_gives_each_edge_and_its_neighbours_equally_often() -> None:
    lengths = AroundEdges((1.0, 5.0), 0.01).sample(12, rng())
    values, counts = np.unique(lengths.round(6), return_counts=True)
    assert values.tolist() == [0.99, 1.0, 1.01, 4.99, 5.0, 5.01]
    assert set(counts.tolist()) == {2}


@pytest.mark.parametrize("lengths", [Uniform(1, 2), LogNormal(3, 0.5, 1, 9), AroundEdges((1.0, 2.0), 0.01)])
def test_order_is_random_and_the_seed_decides(lengths: Uniform) -> None:
    first, again, other = (lengths.sample(30, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.sort(first))


weights = st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=6)


@settings(deadline=None)
@given(weights, st.integers(0, 300))
def test_apportioned_parts_add_up_and_are_within_one_of_their_share(
    shares: dict[str, float], count: int
) -> None:
    parts = apportion(shares, count)
    assert sum(parts.values()) == count
    for name, weight in shares.items():
        assert abs(parts[name] - count * weight / sum(shares.values())) < 1 + 1e-6


def test_dealing_shuffles_apportioned_choices() -> None:
    dealt = deal({"wav": 3, "mp3": 1}, 40, rng())
    assert dealt.count("wav") == 30
    assert dealt != sorted(dealt)
