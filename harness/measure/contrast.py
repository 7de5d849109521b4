"""How far B lies from A, and how sure that is: the statistics of every comparison.

The unit is the process. Requests of one process share its memory layout, its caches and the state of
the machine, so that many requests in few processes are few observations. Interleaved processes come in
rounds, one of each run: what the machine does to a round it does to both sides, and only the ratio
within the round counts (a randomized block design: Montgomery, Design and Analysis of Experiments,
chapter 4). All ratios are differences of natural logarithms here.

Each process has a level, and a percentile is the mean level times the percentile of all requests over
their process's level. So the effect of a process, which is what the interval is about, enters as a mean
of n terms, for which Student's t holds, and a tail is still that of all requests and not the unsteady
one of sixty. The standard error comes from resampling whole processes (Davison & Hinkley 1997, section
3.8, without the second level, which would count the noise of requests twice).

Fewer than three processes have no interval: one observation says nothing of the next, and two say
nothing of how far they usually lie apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit  # type: ignore[import-untyped]
from scipy.stats import hypergeom  # type: ignore[import-untyped]

from harness.measure.stats import SEED, Floats, Ints

MINIMUM_PROCESSES = 3
_REPLICATES = 1000


class Contrast(Protocol):
    """B minus A, or the logarithm of B over A."""

    @property
    def value(self) -> float: ...

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided interval; without limits where the processes are too few."""

    def p_above(self) -> float:
        """The chance of a value at least so large if B were no more than A (one-sided)."""


@dataclass(frozen=True, slots=True)
class Student:
    """A value whose error follows Student's t with ``freedom`` degrees of freedom."""

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> tuple[float, float]:
        if self.error == 0:
            return self.value, self.value
        reach = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return self.value - reach, self.value + reach

    def p_above(self) -> float:
        if self.error == 0:
            return 0.0 if self.value > 0 else 1.0
        return float(stdtr(self.freedom, -self.value / self.error))

    def __neg__(self) -> Student:
        return Student(-self.value, self.error, self.freedom)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A value that lies between two others at any confidence: what was counted, or figures of which
    one is zero and has no logarithm."""

    value: float
    low: float
    high: float

    def interval(self, confidence: float) -> tuple[float, float]:  # noqa: ARG002
        return self.low, self.high

    def p_above(self) -> float:
        return 0.0 if self.low > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of B's requests that failed minus that of A's."""

    failed_a: int
    n_a: int
    failed_b: int
    n_b: int

    @property
    def value(self) -> float:
        return self.failed_b / self.n_b - self.failed_a / self.n_a

    def interval(self, confidence: float) -> tuple[float, float]:
        """Newcombe (1998, "Interval estimation for the difference between independent proportions",
        method 10): Wilson's intervals of both, joined. Holds where nothing or everything failed."""
        low_a, high_a = wilson(self.failed_a, self.n_a, confidence)
        low_b, high_b = wilson(self.failed_b, self.n_b, confidence)
        a, b = self.failed_a / self.n_a, self.failed_b / self.n_b
        return (
            self.value - math.hypot(b - low_b, high_a - a),
            self.value + math.hypot(high_b - b, a - low_a),
        )

    def p_above(self) -> float:
        """Fisher's exact test: the chance that so many of the failures fall on B."""
        failed, n = self.failed_a + self.failed_b, self.n_a + self.n_b
        return float(hypergeom.sf(self.failed_b - 1, n, failed, self.n_b))

    def swapped(self) -> Shares:
        return Shares(self.failed_b, self.n_b, self.failed_a, self.n_a)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share (1927)."""
    z, share = float(ndtri((1 + confidence) / 2)), successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def holm(chances: Sequence[float]) -> list[float]:
    """Each chance adjusted for all of them (Holm 1979): those below a level stay below it together, in
    that one or more of them being there by accident is no likelier than the level."""
    adjusted, worst = [1.0] * len(chances), 0.0
    for rank, index in enumerate(np.argsort(chances, kind="stable")):
        worst = max(worst, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = worst
    return adjusted


# ---------------------------------------------------------------- one figure of each process


def mean_difference(a: npt.ArrayLike, b: npt.ArrayLike, *, paired: bool) -> Student:
    """Mean of ``b [m]`` minus mean of ``a [n]``, a figure of each process; ``paired`` by place."""
    before, after = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    samples = [after - before] if paired else [before, after]
    variances = [float(s.var(ddof=1)) / len(s) if len(s) > 1 else math.inf for s in samples]
    return _welch(float(after.mean() - before.mean()), variances, [len(s) for s in samples])


def _welch(value: float, variances: Sequence[float], processes: Sequence[int]) -> Student:
    """Independent errors joined: Welch (1947), degrees of freedom after Satterthwaite (1946)."""
    total = sum(variances)
    if min(processes) < MINIMUM_PROCESSES:
        return Student(value, math.inf, 1.0)
    if total == 0:
        return Student(value, 0.0, 1.0)
    terms = (v * v / (n - 1) for v, n in zip(variances, processes, strict=True))
    return Student(value, math.sqrt(total), total * total / sum(terms))


# ---------------------------------------------------------------- percentiles of many requests


@dataclass(frozen=True)
class Requests:
    """The logarithms ``[N]`` of a figure of one run's requests.

    ``process [N]`` counts processes from 0; ``weights [N]`` give requests their share of a mix.
    """

    logs: Floats
    process: Ints
    weights: Floats

    @property
    def processes(self) -> int:
        return int(self.process.max()) + 1


def _medians(values: Floats, process: Ints) -> Floats:
    """``[n]``: the nearest-rank median of each process's values."""
    sizes = np.bincount(process)
    ranks = np.cumsum(sizes) - sizes + (sizes + 1) // 2 - 1
    return np.asarray(values[np.lexsort((values, process))][ranks], dtype=np.float64)


def paired_percentiles(a: Requests, b: Requests, qs: Sequence[float]) -> list[Student]:
    """Log ratios of the ``qs`` percentiles, where request i of A and of B are the same, in the same
    round. A process of B is as far from its round's level as its requests' ratios usually are."""
    shared = _medians(np.concatenate((a.logs, b.logs)), np.concatenate((a.process, b.process)))
    ratio = _medians(b.logs - a.logs, a.process)
    draws = _draws(a.processes, SEED)
    before, after = _Levelled.of(a, shared), _Levelled.of(b, shared + ratio)
    # The level that both share cancels in the ratio: it is not among the levels that are averaged.
    level = _means(draws, ratio)
    found = [level + after.percentiles(draws, q) - before.percentiles(draws, q) for q in qs]
    return [_welch(float(r[0]), [_variance(r[1:], a.processes)], [a.processes]) for r in found]


def unpaired_percentiles(a: Requests, b: Requests, qs: Sequence[float]) -> list[Student]:
    """Log ratios of the ``qs`` percentiles of two runs that share neither requests nor rounds."""
    before, after = _replicates(a, qs, SEED), _replicates(b, qs, SEED + 1)
    return [
        _welch(
            float(new[0] - old[0]),
            [_variance(old[1:], a.processes), _variance(new[1:], b.processes)],
            [a.processes, b.processes],
        )
        for old, new in zip(before, after, strict=True)
    ]


def _replicates(run: Requests, qs: Sequence[float], seed: int) -> list[Floats]:
    levels, draws = _medians(run.logs, run.process), _draws(run.processes, seed)
    levelled = _Levelled.of(run, levels)
    return [_means(draws, levels) + levelled.percentiles(draws, q) for q in qs]


@cache
def _draws(processes: int, seed: int) -> Floats:
    """``[1 + replicates, n]``: how often each process counts. In the first row each counts once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(processes, np.full(processes, 1 / processes), size=_REPLICATES)
    return np.vstack([np.ones(processes), drawn]).astype(np.float64)


def _means(draws: Floats, levels: Floats) -> Floats:
    return np.asarray(draws @ levels / len(levels), dtype=np.float64)


def _variance(replicates: Floats, processes: int) -> float:
    """A resampled variance has the divisor n: the unbiased one has n - 1."""
    return float(replicates.var(ddof=1)) * processes / max(1, processes - 1)


@dataclass(frozen=True)
class _Levelled:
    """A run's logs over the level of their process, ascending ``[N]``; and of each process the weight of
    its requests among the first i: ``cumulative [N + 1, n]``."""

    ordered: Floats
    cumulative: Floats

    @classmethod
    def of(cls, run: Requests, levels: Floats) -> _Levelled:
        over = run.logs - levels[run.process]
        order = np.argsort(over, kind="stable")
        weight = np.zeros((len(over) + 1, run.processes))
        weight[np.arange(1, len(over) + 1), run.process[order]] = run.weights[order]
        return cls(over[order], np.cumsum(weight, axis=0))

    def percentiles(self, draws: Floats, q: float) -> Floats:
        """The nearest-rank percentile in each replicate ``[R]``, found by bisection over ranks."""
        wanted = draws @ self.cumulative[-1] * (q * (1 - 1e-12))
        low = np.zeros(len(draws), dtype=np.int64)
        high = np.full(len(draws), len(self.ordered) - 1)
        while (low < high).any():
            middle = (low + high) // 2
            reached = np.einsum("rn,rn->r", self.cumulative[middle + 1], draws) >= wanted
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        return self.ordered[low]
