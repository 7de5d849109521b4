"""Steps in rows of figures: how often one is seen where there is none, and how well one that is there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.measure.steps import find_steps

LEVEL = 0.05
HISTORIES = 400


def noisy(rng: np.random.Generator, n: int, outliers: float = 0.0) -> np.ndarray:
    """Logarithms of figures that differ by 2 %, of which a share is much slower."""
    return rng.normal(0, 0.02, n) + np.where(rng.random(n) < outliers, rng.exponential(0.3, n), 0.0)


@pytest.mark.parametrize("n", [8, 30, 100])
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_histories_without_a_change_seldom_show_a_step(n: int, outliers: float) -> None:
    """No more of 400 than a chance of 5 % explains: up to 33 (99.8 % of such simulations)."""
    rng = np.random.default_rng(n)
    alarms = sum(bool(find_steps(noisy(rng, n, outliers), LEVEL)) for _ in range(HISTORIES))
    assert alarms <= 33


def test_a_step_of_five_percent_is_found_where_it_is() -> None:
    rng = np.random.default_rng(1)
    found = [find_steps(noisy(rng, 30) + 0.05 * (np.arange(30) >= 18), LEVEL) for _ in range(200)]
    assert sum(bool(steps) for steps in found) > 190
    (places, changes) = zip(*((s[0].place, s[0].change) for s in found if len(s) == 1), strict=True)
    assert np.mean(np.abs(np.array(places) - 18) <= 2) > 0.9
    assert math.isclose(float(np.mean([c.value for c in changes])), 0.05, rel_tol=0.1)


def test_three_runs_after_a_large_step_are_enough() -> None:
    rng = np.random.default_rng(2)
    row = noisy(rng, 40)
    row[37:] += 0.3
    assert [step.place for step in find_steps(row)] == [37]


def test_each_of_several_steps_is_told_from_its_neighbours() -> None:
    rng = np.random.default_rng(3)
    row = noisy(rng, 60) + np.repeat([0.0, 0.3, -0.1], 20)
    steps = find_steps(row)
    assert [step.place for step in steps] == [20, 40]
    assert [round(step.change.value, 1) for step in steps] == [0.3, -0.4]


def test_one_run_that_is_slow_is_no_step() -> None:
    row = noisy(np.random.default_rng(4), 40)
    row[-1] += 1.0
    assert find_steps(row) == []


@pytest.mark.parametrize("row", [[], [1.0], [1.0, 2.0, 1.0], [5.0] * 20, [1.0, 1.0, 2.0, 2.0]])
def test_too_few_figures_or_no_difference_show_nothing(row: list[float]) -> None:
    assert find_steps(row) == []


def test_the_same_history_shows_the_same_steps() -> None:
    row = noisy(np.random.default_rng(5), 40) + 0.04 * (np.arange(40) >= 20)
    assert find_steps(row) == find_steps(row)
