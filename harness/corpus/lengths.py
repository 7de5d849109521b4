"""How long recordings are: distributions sampled in strata, so that small sets follow them too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol, TypeVar

import numpy as np

Choice = TypeVar("Choice", bound=Hashable)


class Lengths(Protocol):
    """A distribution of lengths in seconds."""

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` lengths in random order, float64 ``[count]``; one from each equal share of the mass."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every length between two bounds is as likely."""

    min_s: float
    max_s: float

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.min_s + (self.max_s - self.min_s) * _strata(count, rng)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A normal distribution of log-lengths around ``median_s``, truncated to its bounds.

    ``sigma`` is the standard deviation of the natural logarithm, before truncation.
    """

    median_s: float
    sigma: float
    min_s: float
    max_s: float

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        normal = NormalDist(math.log(self.median_s), self.sigma)
        low, high = normal.cdf(math.log(self.min_s)), normal.cdf(math.log(self.max_s))
        quantiles = low + (high - low) * _strata(count, rng)
        lengths = np.exp([normal.inv_cdf(float(quantile)) for quantile in quantiles])
        return np.clip(lengths, self.min_s, self.max_s)


@dataclass(frozen=True, slots=True)
class AroundEdges:
    """Lengths at each edge, one frame below it and one above, in turn."""

    edges_s: tuple[float, ...]
    frame_s: float

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        around = [edge + step * self.frame_s for edge in self.edges_s for step in (-1, 0, 1)]
        return np.asarray(rng.permutation(np.resize(around, count)), np.float64)


def apportion(weights: Mapping[Choice, float], count: int) -> dict[Choice, int]:
    """Share ``count`` out by weight, by largest remainder (Hamilton's method); the parts add up."""
    total = sum(weights.values())
    exact = {choice: count * weight / total for choice, weight in weights.items()}
    parts = {choice: int(share) for choice, share in exact.items()}
    by_remainder = sorted(weights, key=lambda choice: parts[choice] - exact[choice])
    for choice in by_remainder[: count - sum(parts.values())]:
        parts[choice] += 1
    return parts


def deal(weights: Mapping[Choice, float], count: int, rng: np.random.Generator) -> list[Choice]:
    """``count`` choices in random order, as near to their weights as whole numbers allow."""
    dealt = [choice for choice, part in apportion(weights, count).items() for _ in range(part)]
    return [dealt[index] for index in rng.permutation(count)]


def _strata(count: int, rng: np.random.Generator) -> np.ndarray:
    """One uniform draw from each of ``count`` equal parts of [0, 1), in random order."""
    return np.asarray(rng.permutation((np.arange(count) + rng.random(count)) / count), np.float64)
