"""The verdict follows from ratios and their intervals alone."""

from __future__ import annotations

import numpy as np
import pytest

from harness.claims.leaf import Condition, read_leaves
from harness.claims.verdict import Answer, Verdict, answer, verdict_of
from harness.measure.contrast import Bounds
from harness.measure.effects import Effect
from harness.measure.metrics import metric
from harness.measure.stats import TooSmall

LEAVES = read_leaves()


def change(name: str, low: float, high: float, a: float = 0.1, scope: str = "all") -> Effect:
    middle = (low + high) / 2
    contrast = Bounds(*(float(np.log(ratio)) for ratio in (middle, low, high)))
    return Effect(metric(name), scope, a, a * middle, contrast, 200, 4)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.40, 0.50), Verdict.REPRODUCED),
        ((0.40, 0.51), Verdict.PARTLY),
        ((0.80, 0.90), Verdict.PARTLY),
        ((0.80, 1.10), Verdict.UNDECIDED),
        ((0.95, 1.05), Verdict.NOT_HERE),
        ((1.50, 1.60), Verdict.NOT_HERE),
    ],
)
def test_the_whole_interval_decides(interval: tuple[float, float], verdict: Verdict) -> None:
    assert verdict_of(LEAVES[4], [change("span.decoder.p50", *interval)]) is verdict


def test_another_bucket_s_figure_is_no_answer() -> None:
    short, long = (change("span.encoder.p50", 0.3, 0.4, scope=s) for s in ("01-02s", "10-20s"))
    assert verdict_of(LEAVES[2], [short]) is Verdict.REPRODUCED
    assert verdict_of(LEAVES[2], [long]) is Verdict.UNDECIDED


def test_too_few_samples_decide_nothing() -> None:
    small = Effect(metric("span.decoder.p50"), "all", None, None, TooSmall(3, 5), 3, 1)
    assert verdict_of(LEAVES[4], [small]) is Verdict.UNDECIDED
    assert verdict_of(LEAVES[4], []) is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("baseline_s", "found"), [(0.3, Answer.YES), (0.15, Answer.OPEN), (0.11, Answer.NO), (0.05, Answer.NO)]
)
def test_saved_seconds_are_of_the_baseline_s_figure(baseline_s: float, found: Answer) -> None:
    condition = Condition("span.ipc.p50", saves_s=0.1)
    assert answer(condition, [change("span.ipc.p50", 0.2, 0.6, a=baseline_s)]) is found


@pytest.mark.parametrize(
    ("p95", "p50", "p99", "pause", "verdict"),
    [
        ((0.1, 0.3), (0.9, 1.1), (0.1, 0.2), (0.1, 0.2), Verdict.REPRODUCED),
        ((0.1, 0.3), (0.4, 0.5), (0.1, 0.2), (0.1, 0.2), Verdict.PARTLY),
        ((0.9, 1.1), (0.9, 1.1), (0.1, 0.2), (0.3, 0.4), Verdict.PARTLY),
        ((0.9, 1.1), (0.9, 1.1), (0.9, 1.1), (0.02, 0.04), Verdict.PARTLY),
        ((0.9, 1.1), (0.9, 1.1), (0.9, 1.1), (0.3, 0.4), Verdict.NOT_HERE),
        ((0.9, 1.1), (0.9, 1.1), (0.2, 1.5), (0.3, 0.4), Verdict.UNDECIDED),
    ],
    ids=["p95 alone", "p50 moved too", "p99", "only the pause", "no stall", "p99 is not known"],
)
def test_stalls_are_told_from_a_slower_service(
    p95: tuple[float, float],
    p50: tuple[float, float],
    p99: tuple[float, float],
    pause: tuple[float, float],
    verdict: Verdict,
) -> None:
    names = ("chunk.p95", "chunk.p50", "chunk.p99", "gc.longest")
    changes = [change(name, *interval) for name, interval in zip(names, (p95, p50, p99, pause), strict=True)]
    assert verdict_of(LEAVES[7], changes) is verdict
