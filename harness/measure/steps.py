"""Where a row of figures changed its level, held to a stated chance of seeing a step where there is none.

The row is split where both sides lie farthest apart for their sizes (the largest two-sample t of all
places), and how often that happens by accident is asked of the same figures in other orders: a permutation
test (Antoch & Hušková 2001, "Permutation tests in change point analysis"), exact for figures of any
distribution, outliers included, as long as none depends on the one before. Both sides are split further in
the same way (binary segmentation, Scott & Knott 1974), at half the level each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from harness.measure.contrast import Student, mean_difference
from harness.measure.stats import SEED, Floats

FALSE_ALARM = 0.01
_SHORTEST = 2
"""Figures on either side of a step: one alone is an outlier, whatever it is."""
_BLOCK = 500
_ENOUGH = 10
"""Orders with as large a step after which no more are tried (Besag & Clifford 1991)."""


@dataclass(frozen=True, slots=True)
class Step:
    """``place`` is the first figure after it; ``change`` the mean up to the next less that since the last."""

    place: int
    change: Student
    p: float


def find_steps(figures: npt.ArrayLike, level: float = FALSE_ALARM) -> list[Step]:
    """Steps in the order of the figures. The chance of one or more where nothing changed is ``level``.

    Give logarithms of what is compared as ratios.
    """
    row = np.asarray(figures, dtype=np.float64)
    places = _places(row, 0, level, np.random.default_rng(SEED))
    levels = np.split(row, [place for place, _ in places])
    return [
        Step(place, mean_difference(before, after, paired=False), p)
        for (place, p), (before, after) in zip(places, pairwise(levels), strict=True)
    ]


def _places(row: Floats, offset: int, level: float, rng: np.random.Generator) -> list[tuple[int, float]]:
    if len(row) < 2 * _SHORTEST or np.ptp(row) == 0:
        return []
    place, size = _largest(row)
    p = _chance(row, size, level, rng)
    if p > level:
        return []
    before = _places(row[:place], offset, level / 2, rng)
    after = _places(row[place:], offset + place, level / 2, rng)
    return [*before, (offset + place, p), *after]


def _largest(row: Floats) -> tuple[int, float]:
    sizes = _sizes(row[None])[0]
    place = int(np.argmax(sizes))
    return place + _SHORTEST, float(sizes[place])


def _sizes(rows: Floats) -> Floats:
    """``[R, n]`` to ``[R, places]``: the sum of squares between both sides of each place. The total is the
    same in any order of a row, so that this grows with t."""
    n = rows.shape[1]
    first = np.arange(_SHORTEST, n - _SHORTEST + 1)  # figures before a place
    sums = np.cumsum(rows - rows.mean(axis=1, keepdims=True), axis=1)[:, first - 1]
    return np.asarray(sums**2 * n / (first * (n - first)), dtype=np.float64)


def _chance(row: Floats, size: float, level: float, rng: np.random.Generator) -> float:
    """Of a step of that size or more in another order of the row; tried until it is clear of ``level``."""
    most = math.ceil(_ENOUGH / level)
    as_large = tried = 0
    reached = size * (1 - 1e-9)  # the same figures summed in another order
    while tried < most and as_large < _ENOUGH:
        orders = rng.permuted(np.broadcast_to(row, (min(_BLOCK, most - tried), len(row))), axis=1)
        as_large += int(np.count_nonzero(_sizes(orders).max(axis=1) >= reached))
        tried += len(orders)
    return (as_large + 1) / (tried + 1)
