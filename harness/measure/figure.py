"""One figure of a run by its metric's name, with its interval: what a history and an export are made of."""

from __future__ import annotations

from harness.measure.contrast import wilson
from harness.measure.effects import memory_peaks
from harness.measure.metrics import ALL, WEIGHTED, Kind, Metric, mix_weights
from harness.measure.rounds import figures
from harness.measure.stats import CONFIDENCE, Estimate, Floats, Measured, Resampled, nearest_rank
from harness.measure.summary import QUANTILES, figures_of
from harness.record import StoredRun

_RECORDED = {"latency_s": "latency", "rtf": "rtf"}


def figure_of(stored: StoredRun, metric: Metric, scope: str = ALL) -> Measured | None:
    """``metric`` in ``scope`` (all, weighted or a bucket), or None where the run does not have it.

    Of memory and of figures by process the interval is their range: the largest peak, the median figure.
    """
    match metric.kind:
        case Kind.PERCENTILE:
            return _recorded(stored, metric, scope) or _percentile(stored, metric, scope)
        case _ if scope != ALL:
            return None
        case Kind.RTFX:
            return figures_of(stored).rtfx
        case Kind.WER:
            wer = figures_of(stored).wer
            return None if wer is None else wer.rate
        case Kind.FAILURES:
            return _failures(stored)
        case Kind.MEMORY:
            return _range_of(memory_peaks(stored, metric.column), at=1.0)
        case _:
            return _range_of(figures(stored, metric.name), at=0.5)


def _recorded(stored: StoredRun, metric: Metric, scope: str) -> Measured | None:
    """What the run's record holds of the usual percentiles, so that its samples need not be drawn again."""
    name = next((name for name, q in QUANTILES.items() if q == metric.q), None)
    if name is None or metric.column not in _RECORDED:
        return None
    found = next((s for s in figures_of(stored).scopes if s.name == scope), None)
    return None if found is None else getattr(found, _RECORDED[metric.column]).get(name)


def _percentile(stored: StoredRun, metric: Metric, scope: str) -> Measured | None:
    rows = stored.measured
    weights: Floats | None = None
    if scope == WEIGHTED:
        weights = mix_weights(rows, stored.run.provenance.dataset.mix)
        if weights is None:
            return None
    elif scope != ALL:
        rows = rows[rows["bucket"] == scope]
    known = rows[metric.column].notna().to_numpy()
    if not known.any():
        return None
    rows, weights = rows[known], None if weights is None else weights[known]
    (found,) = Resampled.of(rows["process"]).percentiles(rows[metric.column], [metric.q], weights=weights)
    return found


def _failures(stored: StoredRun) -> Estimate | None:
    failed = len(stored.failed)
    n = failed + len(stored.measured)
    return Estimate(failed / n, *wilson(failed, n, CONFIDENCE), n, len(stored.run.processes)) if n else None


def _range_of(values: list[float], at: float) -> Estimate | None:
    if not values:
        return None
    return Estimate(nearest_rank(values, at), min(values), max(values), len(values), len(values))
