"""Figures of which a process has one, and how they differ between two runs.

``chunk.pNN`` is a percentile of a live stream's chunks, from their due time to their acknowledgement;
``gc.longest`` the longest pause of Python's collector while requests were measured; ``evidence.PATH``
a number that the variant counted (``evidence.ipc.copied_bytes_total``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.measure.contrast import MINIMUM_PROCESSES, Bounds, Contrast, mean_difference
from harness.measure.stats import TooSmall, nearest_rank
from harness.record import ProcessRecord, StoredRun

_CHUNK = re.compile(r"chunk\.p(?P<rank>\d\d)")


def is_figure(name: str) -> bool:
    """Whether ``name`` is a figure of this module."""
    return (
        is_count(name)
        or name == "gc.longest"
        or ((match := _CHUNK.fullmatch(name)) is not None and match["rank"] != "00")
    )


def is_count(name: str) -> bool:
    """Whether it was counted, and not timed: the same in every process that did the same."""
    return name.startswith("evidence.")


def figures(stored: StoredRun, name: str) -> list[float]:
    """One value for each process that has it, in the order of the processes."""
    found = (_figure(stored.folder, process, name) for process in stored.run.processes)
    return [value for value in found if value is not None]


def ratio(a: Sequence[float], b: Sequence[float], exact: bool = False) -> Contrast | TooSmall:
    """The logarithm of B/A of figures by process.

    Processes of equal index are a pair, so that what they share cancels where they were interleaved. What
    was counted (``exact``) needs no statistics, and where a process has none (no pause) there are no
    logarithms: the interval then spans every process of B against every one of A.
    """
    rounds = min(len(a), len(b))
    if rounds < MINIMUM_PROCESSES and not exact:
        return TooSmall(rounds, MINIMUM_PROCESSES)
    if exact or min(*a, *b) <= 0:
        high = max(b) / min(a) if min(a) > 0 else math.inf
        return Bounds(*map(_log, (sum(b) / sum(a), min(b) / max(a), high)))
    return mean_difference(np.log(a[:rounds]), np.log(b[:rounds]), paired=True)


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _figure(folder: Path, process: ProcessRecord, name: str) -> float | None:
    if match := _CHUNK.fullmatch(name):
        return _chunk_percentile(folder / f"chunks-{process.index}.parquet", int(match["rank"]) / 100)
    if name == "gc.longest":
        return None if process.gc is None else process.gc.longest_s
    return _number(process.evidence, name.split(".")[1:])


def _chunk_percentile(file: Path, q: float) -> float | None:
    """Of the chunks that were acknowledged; a run with others is INVALID."""
    if not file.is_file():
        return None
    chunks = pd.read_parquet(file, columns=["scheduled_s", "acked_s"])
    answered = chunks[chunks["acked_s"] > 0]
    return nearest_rank(answered["acked_s"] - answered["scheduled_s"], q) if len(answered) else None


def _number(evidence: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = evidence
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
