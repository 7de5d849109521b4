"""Which recording is sent when: decided before the run, from a seed, never by how the run goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from harness.errors import UsageError

T = TypeVar("T")


def order(items: Sequence[T], requests: int, seed: int) -> list[T]:
    """``requests`` items in random order, each appearing as often as any other, give or take one.

    Whole passes over the set are shuffled one by one, so that a run of any length sees the set's
    own mix of lengths.
    """
    if not items:
        raise UsageError("the audio set is empty: nothing to send")
    rng = np.random.default_rng(seed)
    passes = -(-requests // len(items))
    indices = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])
    return [items[i] for i in indices[:requests]]


def taken_up(lengths_s: Sequence[float], order: str) -> list[int]:
    """The recordings' places in the order in which an offline workload takes them up."""
    places = range(len(lengths_s))
    if order == "given":
        return list(places)
    # Stable: recordings of the same length as given.
    return sorted(places, key=lengths_s.__getitem__, reverse=order == "longest_first")


def arrival_offsets_s(requests: int, rate_per_s: float, arrivals: str, seed: int) -> np.ndarray:
    """Scheduled arrivals in seconds from the start, float64 ``[requests]``, ascending.

    ``constant`` spaces them evenly; ``poisson`` draws exponential gaps of mean ``1 / rate_per_s``.
    The schedule is absolute: a late service cannot push later arrivals back (coordinated omission).
    """
    if arrivals == "constant":
        return np.arange(requests) / rate_per_s
    if arrivals == "poisson":
        gaps = np.random.default_rng(seed).exponential(1.0 / rate_per_s, size=requests)
        offsets: np.ndarray = np.cumsum(gaps) - gaps[0]
        return offsets
    raise UsageError(f"workload.arrivals={arrivals} is not one of poisson, constant")
