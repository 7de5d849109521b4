"""Percentiles with intervals, for samples that come in groups (requests within processes).

One rule everywhere: nearest-rank percentiles (a value that happened), 95 % intervals from a seeded
bootstrap over processes, then over the requests of each, and no number at all below the sample
size at which a percentile can be bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

CONFIDENCE = 0.95
REPLICATES = 2000
SEED = 20260521
_CELLS_AT_ONCE = 4_000_000
"""Replicates x samples held in memory at a time: 32 MB of counts."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its 95 % interval, from ``n`` samples of ``processes`` processes."""

    value: float
    low: float
    high: float
    n: int
    processes: int = 1


@dataclass(frozen=True, slots=True)
class TooSmall:
    """No number: ``n`` samples, where ``needed`` is the least that bounds the statistic."""

    n: int
    needed: int


Measured = Estimate | TooSmall


def minimum_samples(q: float, confidence: float = CONFIDENCE) -> int:
    """The least n at which a sample reaches the ``q`` quantile with this confidence.

    All of n independent samples lie below the quantile with probability q^n, so the largest bounds
    it from above once 1 - q^n >= confidence (Wilks 1941): 59 for p95 and 299 for p99.
    """
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    n = max(1, math.floor(math.log(1 - confidence) / math.log(q)))
    while 1 - q**n < confidence:
        n += 1
    return n


def nearest_rank(values: npt.ArrayLike, q: float, weights: npt.ArrayLike | None = None) -> float:
    """The least value such that at least the share ``q`` of the samples is not above it.

    Without weights this is the nearest-rank definition: rank ceil(q n) of the sorted values
    (type 1 of Hyndman & Fan 1996). With weights, the share is that of the weight.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("a percentile of no samples does not exist")
    order = np.argsort(data, kind="stable")
    shares = np.ones(data.size) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(data[order][_rank_indices(np.cumsum(shares[order])[:, None], [q])[0, 0]])


def _rank_indices(cumulative: Array, qs: Sequence[float]) -> Ints:
    """Along axis 0 of cumulative weights ``[n, R]``: the first index that reaches each of ``qs``.

    Returns ``[len(qs), R]``.
    """
    # 0.07 * 100 is 7.000000000000001 in floats: a hair of tolerance keeps the rank at 7.
    total = cumulative[-1] * (1 - 1e-12)
    return np.stack([np.count_nonzero(cumulative < q * total, axis=0) for q in qs])


# ---------------------------------------------------------------- resampling


@dataclass(frozen=True, slots=True)
class Groups:
    """Which process each of n samples belongs to: ``labels`` is ``[n]``, 0 … processes-1."""

    labels: Ints
    sizes: Ints

    @classmethod
    def of(cls, process: npt.ArrayLike) -> Groups:
        _, labels, sizes = np.unique(np.asarray(process), return_inverse=True, return_counts=True)
        return cls(labels.astype(np.int64), sizes.astype(np.int64))

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def processes(self) -> int:
        return len(self.sizes)

    @property
    def even(self) -> bool:
        """Whether every process served as many requests."""
        return bool((self.sizes == self.sizes[0]).all())


def resampled_counts(groups: Groups, draws: Ints, rng: np.random.Generator) -> Iterator[Array]:
    """How often each sample occurs in each replicate: blocks ``[n, r]``, side by side ``[n, R]``.

    Hierarchical bootstrap (Davison & Hinkley 1997, section 3.8): the processes of a replicate are
    drawn with replacement, then as many requests from each as it served, with replacement.
    """
    columns = max(1, _CELLS_AT_ONCE // max(1, groups.n))
    for start in range(0, len(draws), columns):
        yield _counts(groups, draws[start : start + columns], rng)


def _counts(groups: Groups, draws: Ints, rng: np.random.Generator) -> Array:
    replicates, n = len(draws), groups.n
    by_process = np.argsort(groups.labels, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(groups.sizes)[:-1]))
    slots = np.arange(int(groups.sizes.max()))[:, None]
    column = np.arange(replicates)
    counts = np.zeros(n * replicates, dtype=np.int32)
    for chosen in draws.T:  # one slot of the first level at a time, all replicates at once
        size = groups.sizes[chosen]  # [R]
        place = (rng.random((len(slots), replicates)) * size).astype(np.int64) + offsets[chosen]
        cells = place * replicates + column
        taken = cells.ravel() if groups.even else cells[slots < size]
        counts += np.bincount(taken, minlength=n * replicates).astype(np.int32)
    unsorted = np.empty((n, replicates), dtype=np.int32)
    unsorted[by_process] = counts.reshape(n, replicates)
    return unsorted


def replicate_percentiles(
    values: Floats, counts: Array, qs: Sequence[float], weights: Floats | None = None
) -> Floats:
    """The percentiles in each replicate: ``values [n]``, ``counts [n, R]`` to ``[len(qs), R]``."""
    order = np.argsort(values, kind="stable")
    counted = counts[order] if weights is None else counts[order] * weights[order, None]
    return np.asarray(values[order][_rank_indices(np.cumsum(counted, axis=0), qs)], dtype=np.float64)


def replicate_ratio(numerator: Floats, denominator: Floats, counts: Array) -> Floats:
    """Sum over sum in each replicate (RTFx, word error rate); infinite over a sum of zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((numerator @ counts) / (denominator @ counts), dtype=np.float64)


# ---------------------------------------------------------------- intervals


def interval(replicates: Floats, processes: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The expanded percentile interval of bootstrap replicates.

    A bootstrap over few processes is too narrow: it knows neither the n-1 of the variance nor
    Student's t. Hesterberg (2015, "What Teachers Should Know About the Bootstrap", section 4.5)
    widens the tails to Phi(-sqrt(n / (n-1)) t[alpha/2, n-1]). One process has nothing to widen
    with: its interval covers its requests only.
    """
    tail = (1 - confidence) / 2
    if processes > 1:
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # here: one process needs NumPy alone

        t = -float(stdtrit(processes - 1, tail))
        tail = NormalDist().cdf(-math.sqrt(processes / (processes - 1)) * t)
    ordered = np.sort(replicates)
    low = math.floor(tail * len(ordered))
    return float(ordered[low]), float(ordered[len(ordered) - 1 - low])


def percentiles(
    values: npt.ArrayLike,
    process: npt.ArrayLike,
    qs: Sequence[float],
    *,
    weights: npt.ArrayLike | None = None,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> tuple[Measured, ...]:
    """Each of ``qs`` with its interval; ``process [n]`` says where each of ``values [n]`` ran."""
    sample = Resampled.of(process, replicates=replicates, seed=seed)
    return sample.percentiles(values, qs, weights=weights)


@dataclass(frozen=True)
class Resampled:
    """One set of bootstrap replicates, shared by every statistic of the same samples."""

    groups: Groups
    counts: tuple[Array, ...]

    @classmethod
    def of(
        cls,
        process: npt.ArrayLike,
        *,
        replicates: int = REPLICATES,
        seed: int = SEED,
    ) -> Resampled:
        """Draw the replicates."""
        groups = Groups.of(process)
        rng = np.random.default_rng(seed)
        if groups.n == 0:
            return cls(groups, ())
        draws = rng.integers(0, groups.processes, size=(replicates, groups.processes))
        return cls(groups, tuple(resampled_counts(groups, draws, rng)))

    def percentiles(
        self, values: npt.ArrayLike, qs: Sequence[float], *, weights: npt.ArrayLike | None = None
    ) -> tuple[Measured, ...]:
        """Each percentile with its interval, or ``TooSmall``."""
        n, processes = self.groups.n, self.groups.processes
        bounded = [q for q in qs if n >= minimum_samples(q)]
        replicates = dict(
            zip(bounded, self.percentile_replicates(values, bounded, weights=weights), strict=True)
        )

        def figure(q: float) -> Measured:
            if q not in replicates:
                return TooSmall(n, minimum_samples(q))
            low, high = interval(replicates[q], processes)
            return Estimate(nearest_rank(values, q, weights), low, high, n, processes)

        return tuple(figure(q) for q in qs)

    def percentile_replicates(
        self, values: npt.ArrayLike, qs: Sequence[float], *, weights: npt.ArrayLike | None = None
    ) -> Floats:
        """``[len(qs), replicates]``."""
        if not qs:
            return np.empty((0, 0))
        data = np.asarray(values, dtype=np.float64)
        shares = None if weights is None else np.asarray(weights, dtype=np.float64)
        return np.concatenate(
            [replicate_percentiles(data, block, qs, shares) for block in self.counts], axis=1
        )

    def ratio(self, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Measured:
        """Sum over sum with its interval, or ``TooSmall`` for a single sample."""
        if self.groups.n < MINIMUM_FOR_RATIO:
            return TooSmall(self.groups.n, MINIMUM_FOR_RATIO)
        top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
        low, high = interval(self.ratio_replicates(top, bottom), self.groups.processes)
        return Estimate(float(top.sum() / bottom.sum()), low, high, self.groups.n, self.groups.processes)

    def difference(
        self, numerator: Floats, denominator: Floats, less_numerator: Floats, less_denominator: Floats
    ) -> Estimate:
        """One ratio of sums minus another of the same samples, paired, with its interval."""
        value = numerator.sum() / denominator.sum() - less_numerator.sum() / less_denominator.sum()
        first = self.ratio_replicates(numerator, denominator)
        second = self.ratio_replicates(less_numerator, less_denominator)
        low, high = interval(first - second, self.groups.processes)
        return Estimate(float(value), low, high, self.groups.n, self.groups.processes)

    def ratio_replicates(self, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
        top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
        return np.concatenate([replicate_ratio(top, bottom, block) for block in self.counts])


MINIMUM_FOR_RATIO = minimum_samples(0.5)
"""A ratio of sums needs no tail, but its bootstrap needs samples to vary: those of a median."""
