"""The effect of B over A on every figure, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from harness.measure.contrast import (
    Contrast,
    Requests,
    Shares,
    Student,
    mean_difference,
    paired_percentiles,
    unpaired_percentiles,
)
from harness.measure.metrics import (
    ALL,
    WEIGHTED,
    Kind,
    Metric,
    buckets_of,
    mix_weights,
    wall_shares_s,
)
from harness.measure.rounds import figures, is_count, ratio
from harness.measure.spelling import spelled
from harness.measure.stats import (
    CONFIDENCE,
    MINIMUM_FOR_RATIO,
    Estimate,
    Floats,
    Measured,
    TooSmall,
    minimum_samples,
    nearest_rank,
)
from harness.measure.wer import corpus_wer, utterance_errors, wer_difference
from harness.record import Mode, StoredRun

_SAME_REQUESTS = 0.8
"""Share of both runs' requests that have a partner in the other, above which they are paired."""
_NEEDED = (
    *("process", "request_id", "index", "bucket", "audio_s", "dispatched_s", "finished_s"),
    *("text", "reference_text"),
)
_NO_TIME_S = 1e-9
"""What a span counts that took no time: its logarithm has to exist."""


@dataclass(frozen=True, slots=True)
class Effect:
    """``metric`` in ``scope``: the values of A and B, and the ratio B/A (for shares: B minus A).

    The ratio is that of the processes' figures, pair by pair where both served the same requests
    (``paired``), and not quite the ratio of the two values.
    """

    metric: Metric
    scope: str
    a: float | None
    b: float | None
    contrast: Contrast | TooSmall
    n: int
    processes: int
    paired: bool = False

    @property
    def is_difference(self) -> bool:
        return self.metric.kind in (Kind.WER, Kind.FAILURES)

    @property
    def change(self) -> Measured:
        """The ratio or difference with its 95 % interval."""
        return self.change_at(CONFIDENCE)

    def change_at(self, confidence: float) -> Measured:
        return self._natural(self.contrast, confidence)

    def cost(self, confidence: float) -> Measured:
        """The same with "more" meaning "worse": the inverse for figures that should grow."""
        return self._natural(self._cost, confidence)

    @property
    def p_worse(self) -> float:
        """The chance of such a figure if B were no worse than A; 1 where nothing is known."""
        return 1.0 if isinstance(self._cost, TooSmall) else self._cost.p_above()

    @property
    def _cost(self) -> Contrast | TooSmall:
        if self.metric.larger_is_better and isinstance(self.contrast, Student):
            return -self.contrast
        return self.contrast

    def _natural(self, contrast: Contrast | TooSmall, confidence: float) -> Measured:
        if isinstance(contrast, TooSmall):
            return contrast
        figures = (contrast.value, *contrast.interval(confidence))
        value, low, high = figures if self.is_difference else map(float, np.exp(figures))
        return Estimate(value, low, high, self.n, self.processes)


@dataclass(frozen=True)
class Pair:
    """The measured rows of two runs; where both served the same requests, row i of both is the same.

    Processes of equal index drew the same requests, whatever became of them: a request that failed on
    one side is left out on both.
    """

    a: pd.DataFrame
    b: pd.DataFrame
    paired: bool
    weights_a: Floats | None = None
    weights_b: Floats | None = None

    @classmethod
    def of(cls, a: pd.DataFrame, b: pd.DataFrame) -> Pair:
        a, b = _by_request(a), _by_request(b)
        shared = a.index.intersection(b.index)
        same_processes = set(a["process"]) == set(b["process"]) == set(shared.get_level_values(0))
        if not same_processes or len(shared) < _SAME_REQUESTS * max(len(a), len(b)):
            return cls(a.reset_index(drop=True), b.reset_index(drop=True), paired=False)
        return cls(a.loc[shared].reset_index(drop=True), b.loc[shared].reset_index(drop=True), paired=True)

    @property
    def n(self) -> int:
        return min(len(self.a), len(self.b))

    @cached_property
    def processes(self) -> int:
        return min(int(rows["process"].nunique()) for rows in (self.a, self.b))

    def effect(
        self, metric: Metric, scope: str, a: float | None, b: float | None, contrast: Contrast | TooSmall
    ) -> Effect:
        return Effect(metric, scope, a, b, contrast, self.n, self.processes, self.paired)

    def where(self, kept_a: pd.Series, kept_b: pd.Series) -> Pair:
        """The part of both that is kept; of paired rows what is kept on both sides."""
        if self.paired:
            kept_a = kept_b = kept_a & kept_b
        if kept_a.all() and kept_b.all():
            return self
        weights = ((self.weights_a, kept_a), (self.weights_b, kept_b))
        kept = [None if w is None else w[k.to_numpy()] for w, k in weights]
        return Pair(self.a[kept_a], self.b[kept_b], self.paired, *kept)

    def weighted(self, a: StoredRun, b: StoredRun) -> Pair | None:
        """With the weights that give each bucket its share of the set; ``None`` where they are unknown."""
        weights_a = mix_weights(self.a, a.run.provenance.dataset.mix)
        weights_b = mix_weights(self.b, b.run.provenance.dataset.mix)
        if weights_a is None or weights_b is None:
            return None
        return Pair(self.a, self.b, self.paired, weights_a, weights_b)


def effects(a: StoredRun, b: StoredRun, metrics: Sequence[Metric]) -> list[Effect]:
    """Every metric in every scope it has: all requests, the set's mix, each bucket of both runs.

    A metric that one of the runs does not have (no GPU, no transcripts, a span that took no time,
    an RTFx that the arrivals set, lengths that nobody knows) is left out.
    """
    found = [*_failures(a, b, metrics)]
    if not a.measured.empty and not b.measured.empty:
        columns = [*_NEEDED, *dict.fromkeys(m.column for m in metrics if m.kind is Kind.PERCENTILE)]
        whole = Pair.of(*(spelled(each.measured[columns], each.run.config) for each in (a, b)))
        found += [e for scope, pair in _scopes(a, b, whole) for e in _percentiles(metrics, scope, pair)]
        found += [e for m in metrics if (e := _single(a, b, m, whole)) is not None]
    return sorted(found, key=lambda effect: metrics.index(effect.metric))


def _scopes(a: StoredRun, b: StoredRun, whole: Pair) -> Iterator[tuple[str, Pair]]:
    yield ALL, whole
    if (weighted := whole.weighted(a, b)) is not None:
        yield WEIGHTED, weighted
    for bucket in buckets_of(whole.a):
        part = whole.where(whole.a["bucket"] == bucket, whole.b["bucket"] == bucket)
        if part.n:
            yield bucket, part


def _percentiles(metrics: Sequence[Metric], scope: str, pair: Pair) -> Iterator[Effect]:
    for column in dict.fromkeys(m.column for m in metrics if m.kind is Kind.PERCENTILE):
        known = pair.where(pair.a[column].notna(), pair.b[column].notna())
        if known.n:
            yield from _of_column([m for m in metrics if m.column == column], scope, known)


def _of_column(metrics: Sequence[Metric], scope: str, pair: Pair) -> Iterator[Effect]:
    """The percentiles of one column, which share the work of levelling it."""
    values_a, values_b = (rows[metrics[0].column].to_numpy(np.float64) for rows in (pair.a, pair.b))
    bounded = [m for m in metrics if pair.n >= minimum_samples(m.q)]
    contrasts = dict(zip(bounded, _contrasts(pair, values_a, values_b, [m.q for m in bounded]), strict=True))
    for metric in metrics:
        a = nearest_rank(values_a, metric.q, pair.weights_a)
        b = nearest_rank(values_b, metric.q, pair.weights_b)
        if a <= 0 or b <= 0:
            continue
        if metric in contrasts:
            yield pair.effect(metric, scope, a, b, contrasts[metric])
        else:
            yield pair.effect(metric, scope, None, None, TooSmall(pair.n, minimum_samples(metric.q)))


def _contrasts(pair: Pair, values_a: Floats, values_b: Floats, qs: Sequence[float]) -> list[Student]:
    if not qs:
        return []
    a = _requests(pair.a["process"], values_a, pair.weights_a)
    b = _requests(pair.b["process"], values_b, pair.weights_b)
    return paired_percentiles(a, b, qs) if pair.paired else unpaired_percentiles(a, b, qs)


def _requests(process: pd.Series, values: Floats, weights: Floats | None) -> Requests:
    _, labels = np.unique(process, return_inverse=True)
    even = np.ones(len(values)) if weights is None else weights
    return Requests(np.log(np.maximum(values, _NO_TIME_S)), labels.astype(np.int64), even)


def _single(a: StoredRun, b: StoredRun, metric: Metric, pair: Pair) -> Effect | None:
    """A metric that is one figure per run."""
    match metric.kind:
        case Kind.WER:
            return _wer(metric, pair)
        case Kind.MEMORY:
            return _memory(metric, a, b)
        case Kind.PROCESS:
            return _process(metric, a, b)
        case Kind.RTFX:
            scheduled = a.run.mode in (Mode.OPEN, Mode.STREAMING)
            return None if scheduled else _rtfx(metric, pair)
        case _:
            return None


def _rtfx(metric: Metric, pair: Pair) -> Effect | None:
    (audio_a, wall_a), (audio_b, wall_b) = _audio_and_wall(pair.a), _audio_and_wall(pair.b)
    if not all((figure > 0).all() for figure in (audio_a, wall_a, audio_b, wall_b)):
        return None
    if pair.n < MINIMUM_FOR_RATIO:
        return pair.effect(metric, ALL, None, None, TooSmall(pair.n, MINIMUM_FOR_RATIO))
    contrast = mean_difference(np.log(audio_a / wall_a), np.log(audio_b / wall_b), paired=pair.paired)
    a, b = float(audio_a.sum() / wall_a.sum()), float(audio_b.sum() / wall_b.sum())
    return pair.effect(metric, ALL, a, b, contrast)


def _audio_and_wall(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Seconds of audio and of service, of each process: ``[n]`` each."""
    by_process = pd.DataFrame({"audio_s": rows["audio_s"], "wall_s": wall_shares_s(rows)}).groupby(
        rows["process"]
    )
    sums = by_process.sum()
    return sums["audio_s"].to_numpy(np.float64), sums["wall_s"].to_numpy(np.float64)


def _wer(metric: Metric, pair: Pair) -> Effect | None:
    before, after = corpus_wer(pair.a), corpus_wer(pair.b)
    if before is None or after is None:
        return None
    found = wer_difference(utterance_errors(pair.a), utterance_errors(pair.b))
    contrast = found if isinstance(found, TooSmall) else _as_student(found)
    return Effect(metric, ALL, before.point, after.point, contrast, found.n, pair.processes, paired=True)


def _as_student(estimate: Estimate) -> Student:
    """A resampled 95 % interval as a standard error: of many recordings, so nearly normal."""
    freedom = max(1.0, estimate.n - 1.0)
    (_, reach), width = Student(0.0, 1.0, freedom).interval(CONFIDENCE), estimate.high - estimate.low
    return Student(estimate.value, width / 2 / reach, freedom)


def _memory(metric: Metric, a: StoredRun, b: StoredRun) -> Effect | None:
    """The ratio of the processes' peaks. Rounds have no share in them: they are not paired."""
    peaks_a, peaks_b = memory_peaks(a, metric.column), memory_peaks(b, metric.column)
    if not peaks_a or not peaks_b:
        return None
    n = min(len(peaks_a), len(peaks_b))
    contrast = mean_difference(np.log(peaks_a), np.log(peaks_b), paired=False)
    return Effect(metric, ALL, max(peaks_a), max(peaks_b), contrast, n, n)


def _process(metric: Metric, a: StoredRun, b: StoredRun) -> Effect | None:
    old, new = figures(a, metric.name), figures(b, metric.name)
    if not old or not new or not any(old):
        return None
    n, contrast = min(len(old), len(new)), ratio(old, new, exact=is_count(metric.name))
    return Effect(metric, ALL, nearest_rank(old, 0.5), nearest_rank(new, 0.5), contrast, n, n, paired=True)


def memory_peaks(stored: StoredRun, field: str) -> list[float]:
    """Of each process that has it; ``field`` is one of ``Memory``."""
    figures = [getattr(p.memory, field) for p in stored.run.processes if p.memory is not None]
    return [float(figure) for figure in figures if figure]


def _failures(a: StoredRun, b: StoredRun, metrics: Sequence[Metric]) -> Iterator[Effect]:
    shares = failure_shares(a, b)
    for metric in metrics:
        if metric.kind is Kind.FAILURES and shares is not None:
            values = shares.failed_a / shares.n_a, shares.failed_b / shares.n_b
            processes = min(len(a.run.processes), len(b.run.processes))
            yield Effect(metric, ALL, *values, shares, min(shares.n_a, shares.n_b), processes)


def failure_shares(a: StoredRun, b: StoredRun) -> Shares | None:
    """Of all requests; ``None`` where a run has none."""
    counts = [(len(run.failed), len(run.failed) + len(run.measured)) for run in (a, b)]
    return Shares(*counts[0], *counts[1]) if counts[0][1] and counts[1][1] else None


def failures_by_recording(a: StoredRun, b: StoredRun) -> dict[str, Shares]:
    """Of each recording that both were asked for and that failed at least once."""
    (failed_a, n_a), (failed_b, n_b) = _failed_and_sent(a), _failed_and_sent(b)
    troubled = [r for r in n_a.index.intersection(n_b.index) if failed_a.get(r, 0) + failed_b.get(r, 0)]
    return {
        str(r): Shares(int(failed_a.get(r, 0)), int(n_a[r]), int(failed_b.get(r, 0)), int(n_b[r]))
        for r in troubled
    }


def _failed_and_sent(stored: StoredRun) -> tuple[pd.Series, pd.Series]:
    failed = stored.failed["request_id"].value_counts()
    return failed, failed.add(stored.measured["request_id"].value_counts(), fill_value=0)


def _by_request(rows: pd.DataFrame) -> pd.DataFrame:
    """Indexed by process, recording and how often the process had served it before."""
    ordered = rows.sort_values(["process", "request_id", "index"])
    turn = ordered.groupby(["process", "request_id"]).cumcount()
    return ordered.set_index([ordered["process"], ordered["request_id"], turn])
