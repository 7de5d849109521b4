"""Percentiles of a great many samples that are not independent of each other.

A stall of the server delays every stream at the same moment, so chunks of one second stand or fall
together and a bootstrap over single chunks would be far too sure of itself. Whole seconds are
resampled instead (a block bootstrap: Künsch 1989), and runs above them where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.measure.stats import Estimate, Measured, TooSmall, interval, minimum_samples, nearest_rank

REPLICATES = 300
SEED = 20260521


def block_percentiles(
    values: npt.NDArray[np.float64],
    blocks: npt.NDArray[np.int64],
    qs: Sequence[float],
    *,
    runs: npt.NDArray[np.int64] | None = None,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> tuple[Measured, ...]:
    """Nearest-rank percentiles of ``values [n]`` with 95 % intervals.

    ``blocks [n]`` says which block (a second, say) each value belongs to and ``runs [n]`` which
    run; a block's number may repeat in another run. A replicate draws runs, then as many blocks of
    each as it has, both with replacement.
    """
    if len(values) == 0:
        return tuple(TooSmall(0, minimum_samples(q)) for q in qs)
    run_of = np.zeros(len(values), np.int64) if runs is None else runs
    cells, cell_of = np.unique(np.stack([run_of, blocks]), axis=1, return_inverse=True)
    order = np.argsort(values, kind="stable")
    ordered, cell_order = values[order], cell_of.reshape(-1)[order]
    drawn = _draw(cells[0], replicates, np.random.default_rng(seed))
    found = np.array([_at(ordered, counts[cell_order], qs) for counts in drawn])  # [R, Q]
    processes = len(np.unique(cells[0]))
    return tuple(_estimate(values, q, found[:, i], processes) for i, q in enumerate(qs))


def _estimate(
    values: npt.NDArray[np.float64], q: float, found: npt.NDArray[np.float64], runs: int
) -> Measured:
    if len(values) < minimum_samples(q):
        return TooSmall(len(values), minimum_samples(q))
    low, high = interval(found, runs)
    return Estimate(nearest_rank(values, q), low, high, len(values), runs)


def _draw(
    run_of_cell: npt.NDArray[np.int64], replicates: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """How often each cell is drawn: ``[replicates, cells]``."""
    members = [np.flatnonzero(run_of_cell == run) for run in np.unique(run_of_cell)]
    counts = np.zeros((replicates, len(run_of_cell)), np.int64)
    for replicate in counts:
        for run in rng.integers(0, len(members), len(members)):
            np.add.at(replicate, rng.choice(members[run], len(members[run])), 1)
    return counts


def _at(
    ordered: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], qs: Sequence[float]
) -> npt.NDArray[np.float64]:
    """The nearest-rank percentiles of ``ordered``, each value taken ``counts`` times."""
    cumulative = np.cumsum(counts)
    ranks = np.maximum(1, np.ceil(np.asarray(qs) * cumulative[-1] * (1 - 1e-12)))
    return np.asarray(ordered[np.searchsorted(cumulative, ranks)], dtype=np.float64)
