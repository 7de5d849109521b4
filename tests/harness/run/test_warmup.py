from __future__ import annotations

from harness.config.schema import WarmupConfig
from harness.run.warmup import is_steady, warm_up


def test_steady_needs_two_halves_that_agree() -> None:
    assert not is_steady([1.0, 1.0, 1.0], 0.1)
    assert is_steady([5.0, 1.0, 1.05, 1.0, 1.05], 0.1)
    assert not is_steady([5.0, 1.0, 1.05, 1.0], 0.1)


def test_two_good_passes_by_chance_are_not_steady() -> None:
    assert not is_steady([1.0, 3.0, 2.0, 1.0, 1.05], 0.1)


def test_getting_faster_is_not_steady() -> None:
    assert not is_steady([4.0, 3.0, 2.0, 1.0], 0.1)
    assert not is_steady([2.0 * 0.85**n for n in range(12)], 0.1)


def test_one_disturbed_pass_does_not_start_over() -> None:
    assert is_steady([1.0, 1.02, 1.0, 1.01, 1.0, 1.01, 4.0, 1.02], 0.1)


def test_a_growing_spread_is_not_steady() -> None:
    assert not is_steady([1.0, 1.0, 0.8, 1.3], 0.1)


def test_warm_up_ends_when_every_bucket_is_steady() -> None:
    times = {"short": iter([9.0, *[1.0] * 6]), "long": iter([9.0, 5.0, *[2.0] * 5])}
    report = warm_up(lambda bucket: next(times[bucket]), ["short", "long"], WarmupConfig(2, 10, 0.1))
    assert report.steady
    assert report.passes == 6
    assert report.seconds["long"] == [9.0, 5.0, 2.0, 2.0, 2.0, 2.0]


def test_never_steady_is_reported() -> None:
    seconds = iter(float(n) for n in range(100, 0, -10))
    report = warm_up(lambda _bucket: next(seconds), ["only"], WarmupConfig(2, 5, 0.05))
    assert not report.steady
    assert report.passes == 5
