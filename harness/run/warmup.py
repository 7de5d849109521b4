"""Warm-up until steady, for every length bucket of the audio set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.config.schema import WarmupConfig
from harness.measure.stats import nearest_rank

_LEAST_PASSES = 4
"""The fewest that have two halves with a spread."""


@dataclass(frozen=True)
class WarmupReport:
    """Service times of the warm-up: ``seconds[bucket][pass]``."""

    passes: int
    steady: bool
    seconds: dict[str, list[float]]


def is_steady(seconds: Sequence[float], within: float) -> bool:
    """Whether the latest passes are of one kind: their older half and their newer half agree.

    Compared are the lower and the upper quartile of both halves and how far apart these lie, each within a
    share of the newer half's median (after pyperf's calibration of warm-ups). How many passes count as the
    latest is free, from four on: one that was disturbed does not move the quartiles of eight, and slow first
    passes are left behind. A process that still gets faster fails in every one of them.
    """
    starts = range(len(seconds) - _LEAST_PASSES + 1)
    return any(_halves_agree(seconds[start:], within) for start in starts)


def _halves_agree(seconds: Sequence[float], within: float) -> bool:
    halves = seconds[: len(seconds) // 2], seconds[len(seconds) // 2 :]
    older, newer = ([nearest_rank(half, q) for q in (0.25, 0.5, 0.75)] for half in halves)
    spread = abs((older[2] - older[0]) - (newer[2] - newer[0]))
    apart = max(abs(older[0] - newer[0]), abs(older[2] - newer[2]), spread)
    return apart <= within * newer[1]


def warm_up(serve: Callable[[str], float], buckets: Sequence[str], rules: WarmupConfig) -> WarmupReport:
    """Serve one request of every bucket, again and again, until all are steady.

    ``serve(bucket)`` sends that bucket's warm-up request and returns its service time in seconds.
    Not being steady after ``max_passes`` is reported, not hidden: the run says so.
    """
    seconds: dict[str, list[float]] = {bucket: [] for bucket in buckets}
    passes, steady = 0, not buckets
    while passes < rules.max_passes and not (steady and passes >= rules.min_passes):
        for bucket in buckets:
            seconds[bucket].append(serve(bucket))
        passes += 1
        steady = all(is_steady(times, rules.steady_within) for times in seconds.values())
    return WarmupReport(passes, steady, seconds)
