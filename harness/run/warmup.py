"""Warm-up until steady, for every length bucket of the audio set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.config.schema import WarmupConfig


@dataclass(frozen=True)
class WarmupReport:
    """Service times of the warm-up: ``seconds[bucket][pass]``."""

    passes: int
    steady: bool
    seconds: dict[str, list[float]]


def is_steady(seconds: Sequence[float], within: float) -> bool:
    """Whether the last two passes are within a share of the fastest so far.

    A process that still gets faster from pass to pass fails it, because the pass before the last
    is then too far from the fastest; one that was disturbed once has to show two good passes.
    """
    if len(seconds) < 2:
        return False
    return max(seconds[-2:]) <= (1.0 + within) * min(seconds)


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
