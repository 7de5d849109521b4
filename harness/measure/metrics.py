"""The figures that reports, comparisons and gates speak of, by name.

``latency.p95``, ``service.p50``, ``rtf.p50`` and ``span.encoder.p50`` are percentiles of a sample
column; ``rtfx``, ``wer``, ``failures`` (the share of requests that failed), ``memory.rss`` and
``memory.gpu`` are one figure per run, and those of ``harness.measure.rounds`` (``chunk.p99``,
``gc.longest``, ``evidence.PATH``) one per process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.measure.rounds import is_count, is_figure
from harness.measure.stats import Floats
from harness.spans import SPAN_NAMES

ALL = "all"
WEIGHTED = "weighted"
_COLUMNS = {"latency": "latency_s", "service": "service_s", "lag": "lag_s", "rtf": "rtf"}
_PERCENTILE = re.compile(r"(?P<column>.+)\.p(?P<rank>\d\d)")


class Kind(StrEnum):
    """How a figure comes about, and with it how two of them are compared."""

    PERCENTILE = "percentile"  # ratio of percentiles
    RTFX = "rtfx"  # ratio of ratios of sums; the larger the better
    WER = "wer"  # difference
    FAILURES = "failures"  # difference
    MEMORY = "memory"  # ratio of peaks
    PROCESS = "process"  # ratio within rounds, see harness.measure.rounds


@dataclass(frozen=True, slots=True)
class Metric:
    """``column`` and ``q`` are set for percentiles; ``column`` is a field of ``Memory`` for memory."""

    name: str
    kind: Kind
    column: str = ""
    q: float = 0.0

    @property
    def larger_is_better(self) -> bool:
        return self.kind is Kind.RTFX

    @property
    def is_speed(self) -> bool:
        """Whether it means nothing where the answers differ."""
        return self.kind in (Kind.PERCENTILE, Kind.RTFX)


_SINGLE = (
    Metric("rtfx", Kind.RTFX),
    Metric("wer", Kind.WER),
    Metric("failures", Kind.FAILURES),
    Metric("memory.rss", Kind.MEMORY, "rss_bytes"),
    Metric("memory.gpu", Kind.MEMORY, "gpu_bytes"),
)


def metric(name: str) -> Metric:
    """The metric of that name. Raises ``UsageError`` that lists the names."""
    for single in _SINGLE:
        if single.name == name:
            return single
    if is_figure(name):
        return Metric(name, Kind.PROCESS, name if is_count(name) else f"{name}_s")
    match = _PERCENTILE.fullmatch(name)
    column = _column(match["column"]) if match else None
    if match is None or column is None or match["rank"] == "00":
        of_processes = ["chunk.pNN", "gc.longest", "evidence.PATH"]
        columns = [f"{c}.pNN" for c in (*_COLUMNS, "span.NAME")]
        known = ", ".join([*columns, *(m.name for m in _SINGLE), *of_processes])
        raise UsageError(f"unknown metric {name!r}; metrics are {known}; spans are {', '.join(SPAN_NAMES)}")
    return Metric(name, Kind.PERCENTILE, column, int(match["rank"]) / 100)


def _column(alias: str) -> str | None:
    if alias.startswith("span."):
        name = alias.removeprefix("span.")
        return f"span_{name}_s" if name in SPAN_NAMES else None
    return _COLUMNS.get(alias)


def wall_shares_s(measured: pd.DataFrame) -> Floats:
    """Each request's share of the time in which its process had requests in service: ``[n]`` seconds.

    A request's share is the time since the completion before it, less what passed until anything was
    in service again (another process's turn), so that RTFx (audio over wall) is a ratio of sums over
    requests, however many were in service at once.
    """
    process = measured["process"].to_numpy()
    finished_s, dispatched_s = (
        measured[name].to_numpy(np.float64) for name in ("finished_s", "dispatched_s")
    )
    shares = np.zeros(len(measured))
    order = np.lexsort((finished_s, process))
    for rows in np.split(order, np.flatnonzero(np.diff(process[order])) + 1):
        # The earliest dispatch among each request and those that finish after it.
        busy_since_s = np.minimum.accumulate(dispatched_s[rows][::-1])[::-1]
        before_s = np.concatenate(([-np.inf], finished_s[rows][:-1]))
        shares[rows] = finished_s[rows] - np.maximum(before_s, busy_since_s)
    return shares


def buckets_of(measured: pd.DataFrame) -> list[str]:
    """Bucket labels, short audio first: labels sort by length as text."""
    return sorted(str(name) for name in measured["bucket"].unique())


def mix_weights(measured: pd.DataFrame, mix: Mapping[str, float]) -> Floats | None:
    """``[n]`` weights that give each bucket its share of the set, however often it was served.

    ``None`` where the set's mix is unknown or a bucket of it was never served.
    """
    served = measured["bucket"].value_counts()
    if not mix or any(share > 0 and bucket not in served.index for bucket, share in mix.items()):
        return None
    weights = {bucket: mix.get(str(bucket), 0.0) / count for bucket, count in served.items()}
    return np.asarray(measured["bucket"].map(weights), dtype=np.float64)
