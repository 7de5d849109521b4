"""Percentiles that happened, intervals that cover, and no number where there are too few samples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.stats import (
    Estimate,
    Groups,
    Resampled,
    TooSmall,
    minimum_samples,
    nearest_rank,
    percentiles,
)

ROOT = Path(__file__).parents[3]
finite = st.floats(min_value=1e-6, max_value=1e6)


def test_the_smallest_samples_that_bound_a_percentile():
    assert minimum_samples(0.95) == 59
    assert minimum_samples(0.99) == 299
    assert minimum_samples(0.50) == 5


@given(st.floats(min_value=0.01, max_value=0.999))
def test_one_sample_fewer_would_not_reach_the_percentile(q):
    n = minimum_samples(q)
    assert 1 - q**n >= 0.95
    assert n == 1 or 1 - q ** (n - 1) < 0.95


@given(st.lists(finite, min_size=1, max_size=60), st.floats(min_value=0.01, max_value=0.99))
def test_a_percentile_is_the_least_sample_that_enough_do_not_exceed(values, q):
    p = nearest_rank(values, q)
    data = np.array(values)
    assert p in values
    assert np.mean(data <= p) >= q - 1e-9
    assert np.mean(data < p) < q


@given(st.lists(st.tuples(finite, st.integers(1, 5)), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_a_weight_counts_like_repetitions(pairs, q):
    values, weights = zip(*pairs, strict=True)
    repeated = [v for v, w in pairs for _ in range(w)]
    assert nearest_rank(values, q, weights) == nearest_rank(repeated, q)


def test_ranks_are_exact_where_floats_are_not():
    assert nearest_rank(range(1, 101), 0.07) == 7
    assert nearest_rank(range(1, 101), 0.95) == 95
    assert nearest_rank(range(1, 21), 0.95) == 19


def test_no_percentile_is_found_by_another_rule():
    """Every middle and every tail of the project is a nearest rank: a value that happened."""
    others = re.compile(
        r"np\.(nan)?(quantile|percentile|median)\(|\.(quantile|median)\(|"
        r"statistics import .*\bmedian\b|: \"median\""
    )
    sources = [path for part in ("harness", "variants", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources
        if "claims" not in path.parts  # its comparisons are those of harness.compare
        for line in path.read_text().splitlines()
        if others.search(line)
    ]
    assert len(sources) > 100
    assert found == []


def test_too_few_samples_give_no_number():
    p50, p95 = percentiles(np.arange(58.0), np.zeros(58), (0.5, 0.95))
    assert isinstance(p50, Estimate)
    assert p95 == TooSmall(n=58, needed=59)


@settings(max_examples=25, deadline=None)
@given(st.lists(finite, min_size=60, max_size=120), st.integers(1, 6))
def test_an_interval_contains_its_percentile_and_ends_at_samples(values, processes):
    labels = np.arange(len(values)) % processes
    for figure in percentiles(values, labels, (0.5, 0.9), replicates=200):
        assert isinstance(figure, Estimate)
        assert figure.low <= figure.value <= figure.high
        assert {figure.low, figure.high} <= set(values)
        assert (figure.n, figure.processes) == (len(values), processes)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).lognormal(size=100)
    assert percentiles(values, np.zeros(100), (0.5,)) == percentiles(values, np.zeros(100), (0.5,))


def test_each_replicate_draws_whole_processes_then_their_requests():
    labels = np.array([0] * 10 + [1] * 30 + [2] * 20)
    sample = Resampled.of(labels, replicates=500)
    counts = np.concatenate(sample.counts, axis=1)  # [n, R]
    totals = np.stack([counts[labels == p].sum(axis=0) for p in range(3)])
    assert (totals % np.array([[10], [30], [20]]) == 0).all()
    assert (totals / np.array([[10], [30], [20]])).sum(axis=0) == pytest.approx(3)
    assert counts.mean(axis=1) == pytest.approx(1, abs=0.25)


def test_labels_of_processes_need_not_be_sorted_or_dense():
    groups = Groups.of([7, 3, 7, 3, 3])
    assert (groups.n, groups.processes, groups.sizes.tolist()) == (5, 2, [3, 2])


def test_processes_that_differ_widen_the_interval():
    rng = np.random.default_rng(1)
    requests = rng.lognormal(0, 0.05, (5, 100))
    alike = requests.ravel()
    apart = (requests * np.array([0.8, 0.9, 1.0, 1.1, 1.2])[:, None]).ravel()
    labels = np.repeat(np.arange(5), 100)
    (narrow,), (wide,) = percentiles(alike, labels, (0.5,)), percentiles(apart, labels, (0.5,))
    assert isinstance(narrow, Estimate)
    assert isinstance(wide, Estimate)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("q", "process_sigma"), [(0.5, 0.0), (0.5, 0.05), (0.95, 0.05)])
def test_intervals_cover_the_truth_at_least_as_often_as_they_say(q, process_sigma):
    """Five processes of eighty requests, the truth being the percentile of all that could happen."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 80)

    def draw(processes: int, requests: int) -> np.ndarray:
        own = rng.normal(0, process_sigma, (processes, 1))
        return np.exp(own + rng.normal(0, 0.2, (processes, requests))).ravel()

    truth = nearest_rank(draw(20_000, 20), q)
    trials = 150
    hits = 0
    for trial in range(trials):
        (figure,) = percentiles(draw(5, 80), labels, (q,), replicates=400, seed=trial)
        assert isinstance(figure, Estimate)
        hits += figure.low <= truth <= figure.high
    # Three standard errors below 95 %: a check that a too narrow interval fails.
    assert hits / trials > 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5


def test_a_ratio_of_sums_has_an_interval_of_its_own():
    rng = np.random.default_rng(3)
    audio, wall = rng.uniform(1, 10, 200), rng.uniform(0.1, 1, 200)
    figure = Resampled.of(np.zeros(200)).ratio(audio, wall)
    assert isinstance(figure, Estimate)
    assert figure.value == pytest.approx(audio.sum() / wall.sum())
    assert figure.low < figure.value < figure.high
    assert Resampled.of(np.zeros(2)).ratio([1, 2], [1, 2]) == TooSmall(2, 5)
