"""Figures of a run by their metrics' names, with intervals: what a history and an export are made of."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from harness.measure.contrast import wilson
from harness.measure.effects import memory_peaks
from harness.measure.metrics import ALL, WEIGHTED, Kind, Metric, mix_weights
from harness.measure.rounds import figures
from harness.measure.stats import CONFIDENCE, Estimate, Floats, Measured, Resampled, nearest_rank
from harness.measure.summary import QUANTILES, Summary, figures_of
from harness.record import StoredRun

_RECORDED = {"latency_s": "latency", "rtf": "rtf"}


class Figures:
    """Of one run. What several of them are made of is drawn once."""

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored
        self._drawn: dict[str, Resampled] = {}

    @cached_property
    def _summary(self) -> Summary:
        return figures_of(self._stored)

    def of(self, metric: Metric, scope: str = ALL) -> Measured | None:
        """``metric`` in ``scope`` (all, weighted or a bucket), or None where the run does not have it.

        Of memory and of figures by process the interval is their range: the largest peak, the median figure.
        """
        if metric.kind is Kind.PERCENTILE:
            return self._recorded(metric, scope) or self._percentile(metric, scope)
        if scope != ALL:
            return None
        match metric.kind:
            case Kind.RTFX:
                return self._summary.rtfx
            case Kind.WER:
                return None if self._summary.wer is None else self._summary.wer.rate
            case Kind.FAILURES:
                return self._failures()
            case Kind.MEMORY:
                return _range_of(memory_peaks(self._stored, metric.column), at=1.0)
            case _:
                return _range_of(figures(self._stored, metric.name), at=0.5)

    def _recorded(self, metric: Metric, scope: str) -> Measured | None:
        """What the summary holds: the usual percentiles of latency and RTF."""
        name = next((name for name, q in QUANTILES.items() if q == metric.q), None)
        found = next((each for each in self._summary.scopes if each.name == scope), None)
        if found is None or name is None or metric.column not in _RECORDED:
            return None
        measured: Measured | None = getattr(found, _RECORDED[metric.column]).get(name)
        return measured

    def _percentile(self, metric: Metric, scope: str) -> Measured | None:
        rows = self._stored.measured
        weights: Floats | None = None
        if scope == WEIGHTED:
            weights = mix_weights(rows, self._stored.run.provenance.dataset.mix)
        elif scope != ALL:
            rows = rows[rows["bucket"] == scope]
        known = rows[metric.column].notna().to_numpy()
        if not known.any() or (scope == WEIGHTED and weights is None):
            return None
        values, shares = rows[metric.column][known], None if weights is None else weights[known]
        sample = self._sample(rows["process"], scope) if known.all() else Resampled.of(rows["process"][known])
        (found,) = sample.percentiles(values, [metric.q], weights=shares)
        return found

    def _sample(self, process: pd.Series, scope: str) -> Resampled:
        where = ALL if scope == WEIGHTED else scope
        if where not in self._drawn:
            self._drawn[where] = Resampled.of(process)
        return self._drawn[where]

    def _failures(self) -> Estimate | None:
        failed, processes = len(self._stored.failed), len(self._stored.run.processes)
        n = failed + len(self._stored.measured)
        return Estimate(failed / n, *wilson(failed, n, CONFIDENCE), n, processes) if n else None


def _range_of(values: list[float], at: float) -> Estimate | None:
    if not values:
        return None
    return Estimate(nearest_rank(values, at), min(values), max(values), len(values), len(values))
