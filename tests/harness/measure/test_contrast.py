"""Intervals that cover as often as they say, found by drawing runs whose true ratio is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.measure.contrast import (
    Requests,
    Shares,
    Student,
    holm,
    mean_difference,
    paired_percentiles,
    unpaired_percentiles,
)

REQUESTS = 60
QS = (0.5, 0.95)
TRUTH = math.log(1.07)


def draw(rng, processes, level, *, tails=False, process=0.02, request=0.10, stalls=0.02):
    """Logarithms of latencies: the machine's level, each process's own, requests', and stalls."""
    shape = (processes, REQUESTS)
    noise = rng.standard_t(3, shape) / math.sqrt(3) if tails else rng.normal(0, 1, shape)
    stalled = np.where(rng.random(shape) < stalls, np.log(rng.uniform(2, 5, shape)), 0)
    logs = level[:, None] + rng.normal(0, process, (processes, 1)) + request * noise + stalled
    return Requests(logs.ravel(), np.repeat(np.arange(processes), REQUESTS), np.ones(logs.size))


def coverage(judge, trials=200):
    """Of each of ``QS``: how often the interval holds the truth, and how often it lies wholly above."""
    rng = np.random.default_rng(7)
    found = np.array([[c.interval(0.95) for c in judge(rng)] for _ in range(trials)])  # [trials, QS, 2]
    low, high = found[..., 0], found[..., 1]
    return ((low <= TRUTH) & (high >= TRUTH)).mean(axis=0), (low > TRUTH).mean(axis=0)


@pytest.mark.parametrize(
    ("rounds", "noise"),
    [
        *((rounds, {}) for rounds in (3, 5, 8, 16)),
        *((rounds, {"tails": True}) for rounds in (3, 8)),
        *((rounds, {"request": 0.002, "process": 0.01}) for rounds in (3, 16)),
    ],
)
def test_intervals_of_interleaved_runs_cover_what_they_say(rounds, noise):
    """Whatever the machine does from round to round: here it slows down by half, and wavers by 6 %.

    Held within three standard errors of 93 to 97 % at the median; a tail of three rounds has few requests
    behind it, and its interval may be wider than need be, but not narrower.
    """

    def judge(rng):
        level = rng.normal(0, 0.06, rounds) + np.linspace(0, 0.4, rounds)
        return paired_percentiles(
            draw(rng, rounds, level, **noise), draw(rng, rounds, level + TRUTH, **noise), QS
        )

    covered, above = coverage(judge)
    assert 0.93 - 3 * 0.018 <= covered[0] <= 0.97 + 3 * 0.012
    assert covered[1] >= 0.93 - 3 * 0.018
    assert (above <= 0.025 + 3 * 0.011).all()


@pytest.mark.parametrize("processes", [3, 5, 8])
def test_intervals_of_runs_one_after_the_other_cover_what_they_say(processes):
    def judge(rng):
        levels = rng.normal(0, 0.06, (2, processes))
        return unpaired_percentiles(
            draw(rng, processes, levels[0]), draw(rng, processes, levels[1] + TRUTH), QS
        )

    covered, above = coverage(judge)
    assert (covered >= 0.93 - 3 * 0.018).all()
    assert (above <= 0.025 + 3 * 0.011).all()


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("processes", [3, 5, 8, 16])
def test_intervals_of_a_figure_of_each_process_cover_what_they_say(processes, paired):
    """As RTFx and memory are judged."""

    def judge(rng):
        shared = rng.normal(0, 0.06, processes) if paired else 0
        a, b = (shared + rng.normal(0, 0.03, processes) for _ in range(2))
        return [mean_difference(a, b + TRUTH, paired=paired)]

    covered, _ = coverage(judge, trials=1000)
    assert 0.93 <= covered[0] <= 0.97


def test_a_noisy_machine_that_both_sides_share_costs_no_precision():
    rng = np.random.default_rng(1)
    calm, wild = np.zeros(8), np.linspace(0, 2, 8)
    a, b = draw(rng, 8, calm), draw(rng, 8, calm)
    noisy = [Requests(r.logs + wild[r.process], r.process, r.weights) for r in (a, b)]
    (steady,), (shaken,) = paired_percentiles(a, b, [0.5]), paired_percentiles(*noisy, [0.5])
    assert shaken.value == pytest.approx(steady.value)
    assert shaken.error == pytest.approx(steady.error)


@pytest.mark.parametrize("judge", [paired_percentiles, unpaired_percentiles])
@pytest.mark.parametrize("processes", [1, 2])
def test_one_process_or_two_have_a_value_and_no_interval(judge, processes):
    rng = np.random.default_rng(2)
    a, b = draw(rng, processes, np.zeros(processes)), draw(rng, processes, np.ones(processes))
    (contrast,) = judge(a, b, [0.5])
    assert contrast.value > 0.8
    assert contrast.interval(0.95) == (-math.inf, math.inf)
    assert contrast.p_above() == pytest.approx(0.5)


def test_a_value_without_error_is_certain():
    assert Student(0.1, 0.0, 1.0).interval(0.99) == (0.1, 0.1)
    assert Student(0.1, 0.0, 1.0).p_above() == 0.0
    assert Student(0.0, 0.0, 1.0).p_above() == 1.0


def test_shares_have_intervals_where_nothing_or_everything_failed():
    """The published example of the method, and its ends."""
    low, high = Shares(48, 80, 56, 70).interval(0.95)  # Newcombe (1998), table II (a), signs turned
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    low, high = Shares(0, 300, 0, 300).interval(0.95)
    assert -0.02 < low < 0 < high < 0.02
    assert Shares(0, 100, 100, 100).interval(0.95)[0] > 0.9


def test_failures_by_accident_are_likelier_than_by_fault():
    assert Shares(5, 200, 6, 200).p_above() > 0.4
    assert Shares(5, 200, 160, 200).p_above() < 1e-30
    assert Shares(160, 200, 5, 200).p_above() == pytest.approx(1.0)


def test_holm_adjusts_each_chance_for_those_that_are_no_smaller():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
