"""A run's samples as figures: percentiles with intervals, overall and per bucket, RTFx, WER."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.measure.metrics import ALL, WEIGHTED, buckets_of, mix_weights, wall_shares_s
from harness.measure.spelling import spelled
from harness.measure.stats import Estimate, Floats, Measured, Resampled, TooSmall
from harness.measure.wer import WerResult, WordErrors, corpus_wer
from harness.record import Mode, StoredRun
from harness.spans import SPAN_NAMES

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Scope:
    """The figures of one bucket, of all requests as served, or of all weighted by the set's mix.

    ``latency`` and ``rtf`` map ``p50`` … ``p99`` to seconds and to processing over audio. ``spans``
    are mean seconds per request; with ``unaccounted_s`` they sum to the mean latency, unless spans
    overlap.
    """

    name: str
    requests: int
    audio_s: float
    latency: Mapping[str, Measured]
    rtf: Mapping[str, Measured]
    spans: Mapping[str, float]
    unaccounted_s: float


@dataclass(frozen=True)
class Summary:
    """``rtfx`` is audio over wall time, ``None`` where the arrivals and not the service set it."""

    scopes: tuple[Scope, ...]
    rtfx: Measured | None
    wer: WerResult | None
    requests: int
    failed: int

    @property
    def overall(self) -> Scope | None:
        return next((scope for scope in self.scopes if scope.name == ALL), None)

    @property
    def weighted(self) -> Scope | None:
        return next((scope for scope in self.scopes if scope.name == WEIGHTED), None)

    @property
    def buckets(self) -> tuple[Scope, ...]:
        return tuple(scope for scope in self.scopes if scope.name not in (ALL, WEIGHTED))


def summarize(stored: StoredRun) -> Summary:
    """The figures of a run, from its raw samples; a run without successes has no scopes."""
    rows = stored.measured
    failed = len(stored.failed)
    if rows.empty:
        return Summary((), None, None, failed, failed)
    sample = Resampled.of(rows["process"])
    scopes = [_scope(ALL, rows, sample)]
    weights = mix_weights(rows, stored.run.provenance.dataset.mix)
    if weights is not None:
        scopes.append(_scope(WEIGHTED, rows, sample, weights))
    for bucket in buckets_of(rows):
        part = rows[rows["bucket"] == bucket]
        scopes.append(_scope(bucket, part, Resampled.of(part["process"])))
    return Summary(
        tuple(scopes),
        _rtfx(stored, sample),
        corpus_wer(spelled(rows, stored.run.config)),
        len(rows) + failed,
        failed,
    )


def figures_of(stored: StoredRun) -> Summary:
    """The figures that the run's record holds; of one that holds none (it never finished) those of its
    samples."""
    recorded = stored.run.summary.get("figures")
    return summarize(stored) if recorded is None else summary_from_json(recorded)


def _rtfx(stored: StoredRun, sample: Resampled) -> Measured | None:
    """Audio per second of wall time. On a schedule of arrivals it is what was offered and not what can be
    served, and of recordings whose lengths are unknown it is nothing."""
    rows = stored.measured
    audio_s = rows["audio_s"].fillna(0.0)
    if stored.run.mode in (Mode.OPEN, Mode.STREAMING) or not audio_s.sum():
        return None
    return sample.ratio(audio_s, wall_shares_s(rows))


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """The summary in JSON types. A sample that is too small becomes ``{"too_small": …}``."""
    return {
        "requests": summary.requests,
        "failed": summary.failed,
        "rtfx": measured_to_json(summary.rtfx),
        "wer": None if summary.wer is None else _wer_to_json(summary.wer),
        "scopes": {scope.name: _scope_to_json(scope) for scope in summary.scopes},
    }


def measured_to_json(figure: Measured | None) -> dict[str, Any] | None:
    match figure:
        case None:
            return None
        case TooSmall(n, needed):
            return {"too_small": {"n": n, "needed": needed}}
        case Estimate():
            return {
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "n": figure.n,
                "processes": figure.processes,
            }


def summary_from_json(document: Mapping[str, Any]) -> Summary:
    """What ``summary_to_json`` wrote."""
    scopes = [_scope_from_json(name, scope) for name, scope in document["scopes"].items()]
    counts = document["requests"], document["failed"]
    wer = _wer_from_json(document["wer"])
    return Summary(tuple(scopes), _measured_from_json(document["rtfx"]), wer, *counts)


def _measured_from_json(figure: Mapping[str, Any] | None) -> Measured | None:
    if figure is None:
        return None
    return TooSmall(**figure["too_small"]) if "too_small" in figure else Estimate(**figure)


def _percentiles_from_json(figures: Mapping[str, Any]) -> dict[str, Measured]:
    read = {name: _measured_from_json(figure) for name, figure in figures.items()}
    return {name: figure for name, figure in read.items() if figure is not None}


def _scope_from_json(name: str, scope: Mapping[str, Any]) -> Scope:
    return Scope(
        name,
        scope["requests"],
        scope["audio_s"],
        _percentiles_from_json(scope["latency_s"]),
        _percentiles_from_json(scope["rtf"]),
        scope["mean_span_s"],
        scope["mean_unaccounted_s"],
    )


def _wer_from_json(wer: Mapping[str, Any] | None) -> WerResult | None:
    if wer is None or (rate := _measured_from_json(wer["rate"])) is None:
        return None
    errors = WordErrors(wer["insertions"], wer["deletions"], wer["substitutions"], wer["words"])
    return WerResult(rate, errors, wer["utterances"])


def _scope(name: str, rows: pd.DataFrame, sample: Resampled, weights: Floats | None = None) -> Scope:
    latency = rows["latency_s"].to_numpy()
    with_sound = rows[rows["rtf"].notna()]
    # Clips without sound have no RTF; their rows stay out of its replicates.
    complete = len(with_sound) == len(rows)
    rtf_sample = sample if complete else Resampled.of(with_sound["process"])
    rtf_weights = weights if complete or weights is None else weights[rows["rtf"].notna().to_numpy()]
    qs = list(QUANTILES.values())
    latencies = sample.percentiles(latency, qs, weights=weights)
    rtfs = rtf_sample.percentiles(with_sound["rtf"], qs, weights=rtf_weights)
    return Scope(
        name=name,
        requests=len(rows),
        audio_s=float(rows["audio_s"].sum()),
        latency=dict(zip(QUANTILES, latencies, strict=True)),
        rtf=dict(zip(QUANTILES, rtfs, strict=True)),
        spans={span: _mean(rows[f"span_{span}_s"], weights) for span in SPAN_NAMES},
        unaccounted_s=_mean(rows["unaccounted_s"], weights),
    )


def _mean(values: pd.Series, weights: Floats | None) -> float:
    return float(np.average(values.fillna(0.0).to_numpy(), weights=weights))


def _scope_to_json(scope: Scope) -> dict[str, Any]:
    return {
        "requests": scope.requests,
        "audio_s": scope.audio_s,
        "latency_s": {name: measured_to_json(figure) for name, figure in scope.latency.items()},
        "rtf": {name: measured_to_json(figure) for name, figure in scope.rtf.items()},
        "mean_span_s": dict(scope.spans),
        "mean_unaccounted_s": scope.unaccounted_s,
    }


def _wer_to_json(wer: WerResult) -> dict[str, Any]:
    return {
        "rate": measured_to_json(wer.rate),
        "insertions": wer.errors.insertions,
        "deletions": wer.errors.deletions,
        "substitutions": wer.errors.substitutions,
        "words": wer.errors.words,
        "utterances": wer.utterances,
    }
