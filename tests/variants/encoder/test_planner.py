from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from variants.encoder.planner import (
    AffineCost,
    CostCurve,
    Histogram,
    MeasuredCost,
    covering,
    equal_width_edges,
    expected_cost_s,
    histogram,
    plan,
    segment_shapes,
)

SHAPES = st.dictionaries(
    st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 300)), st.integers(1, 50), min_size=1, max_size=9
)
COSTS = st.one_of(
    st.builds(
        AffineCost,
        base_s=st.floats(0, 5e-3),
        per_frame_s=st.floats(1e-9, 1e-4),
        per_square_s=st.floats(0, 1e-7),
    ),
    st.lists(
        st.tuples(st.integers(1, 3000), st.floats(1e-4, 1e-1)),
        min_size=2,
        max_size=5,
        unique_by=lambda p: p[0],
    ).map(lambda points: MeasuredCost(tuple(points))),
)


def brute_force_s(shapes: Histogram, k: int, cost: CostCurve) -> float:
    """The least cost over every choice of at most k edges of which the last is the longest length."""
    *inner, longest = shapes.frames
    choices = (
        [*chosen, longest]
        for count in range(min(k, len(shapes.frames)))
        for chosen in itertools.combinations(inner, count)
    )
    return min(expected_cost_s(shapes, edges, cost) for edges in choices)


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.integers(1, 10), COSTS)
def test_no_choice_of_edges_costs_less(shapes: dict[tuple[int, int], int], k: int, cost: CostCurve) -> None:
    counts = histogram(shapes, granule=1)
    chosen = plan(counts, k, cost)
    assert chosen.expected_s == pytest.approx(brute_force_s(counts, k, cost), rel=1e-9)
    assert chosen.expected_s == pytest.approx(expected_cost_s(counts, chosen.edges, cost), rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.integers(1, 10), COSTS, st.sampled_from(["max", "median"]))
def test_profiles_cover_every_length_without_gap_or_overlap(
    shapes: dict[tuple[int, int], int], k: int, cost: CostCurve, opt: str
) -> None:
    profiles = plan(histogram(shapes), k, cost, opt).profiles
    assert len(profiles) <= k
    assert profiles[0].min == 1
    assert profiles[-1].max >= max(frames for _, frames in shapes)
    assert all(p.min <= p.opt <= p.max for p in profiles)
    assert all(b.min == a.max + 1 for a, b in itertools.pairwise(profiles))


@settings(max_examples=60, deadline=None)
@given(SHAPES, COSTS)
def test_more_profiles_never_cost_more_and_enough_waste_nothing(
    shapes: dict[tuple[int, int], int], cost: CostCurve
) -> None:
    counts = histogram(shapes, granule=1)
    plans = [plan(counts, k, cost) for k in range(1, len(counts.frames) + 2)]
    costs = [p.expected_s for p in plans]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(costs))
    assert costs[0] == pytest.approx(plans[0].single_s)
    assert costs[-1] == pytest.approx(plans[-1].floor_s)


def test_a_plan_is_never_worse_than_equal_widths() -> None:
    lengths = np.random.default_rng(0).lognormal(1.1, 0.7, 500).clip(0.4, 30.0)
    chosen = plan(histogram(segment_shapes(lengths, 30.0)), 5, AffineCost())
    assert chosen.floor_s <= chosen.expected_s <= chosen.equal_width_s <= chosen.single_s


def test_frequent_lengths_get_the_edges() -> None:
    shapes = {(1, 100): 1000, (1, 400): 1, (1, 800): 1000}
    assert plan(histogram(shapes, 1), 2, AffineCost()).edges == (100, 800)


def test_batches_count_by_what_they_cost() -> None:
    """Padding sixteen rows outweighs padding a more frequent single one."""
    cost = AffineCost(0.0, 1e-6, 0.0)
    single = {(1, 100): 5.0, (1, 200): 3.0, (1, 300): 1.0}
    assert plan(histogram(single, 1), 2, cost).edges == (100, 300)
    assert plan(histogram({**single, (16, 200): 3.0}, 1), 2, cost).edges == (200, 300)


def test_the_optimum_is_the_median_where_requests_keep_their_length() -> None:
    shapes = {(1, 10): 1.0, (1, 20): 5.0, (1, 90): 1.0}
    assert plan(histogram(shapes, 1), 1, AffineCost(), "median").profiles[0].opt == 20
    assert plan(histogram(shapes, 1), 1, AffineCost(), "max").profiles[0].opt == 90


def test_long_recordings_are_planned_as_the_pieces_they_become() -> None:
    shapes = segment_shapes([65.0], 30.0)
    assert max(frames for _, frames in shapes) == 3001
    assert sum(shapes.values()) == 3


def test_a_profile_is_added_for_longer_shapes_that_must_be_served() -> None:
    chosen = plan(histogram({(1, 100): 1.0}, 1), 1, AffineCost())
    assert [(p.min, p.max) for p in covering(chosen, 500)] == [(1, 100), (101, 500)]
    assert covering(chosen, 80) == chosen.profiles


def test_a_measured_curve_goes_through_its_points_and_never_falls() -> None:
    curve = MeasuredCost(((100, 2.0), (200, 1.9), (400, 4.0)))
    assert curve(1, 100) == 2.0
    assert curve(2, 100) == 2.0  # the faster point was noise
    assert curve(1, 500) == pytest.approx(5.0)


def test_equal_widths() -> None:
    assert equal_width_edges(100, 4) == [25, 50, 75, 100]


@pytest.mark.parametrize(("k", "opt"), [(0, "max"), (-1, "max"), (2, "mean")])
def test_a_plan_that_means_nothing_is_refused(k: int, opt: str) -> None:
    with pytest.raises(UsageError):
        plan(histogram({(1, 10): 1.0}), k, AffineCost(), opt)


@pytest.mark.parametrize("shapes", [{}, {(1, 0): 4.0}, {(0, 10): 4.0}])
def test_nothing_to_plan_for_is_refused(shapes: dict[tuple[int, int], float]) -> None:
    with pytest.raises(UsageError, match="no lengths"):
        histogram(shapes)
