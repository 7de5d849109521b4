"""How a figure changed from one run to another, with the interval of the change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

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
from harness.measure.stats import (
    MINIMUM_FOR_RATIO,
    SEED,
    Estimate,
    Floats,
    Measured,
    Resampled,
    TooSmall,
    interval,
    minimum_samples,
    nearest_rank,
)
from harness.measure.wer import corpus_wer, utterance_errors, wer_difference
from harness.record import Mode, StoredRun


@dataclass(frozen=True, slots=True)
class Change:
    """``metric`` in ``scope``: the values of A and B and their ratio B/A (for WER: B minus A).

    Between interleaved runs the ratio is the one within blocks, and not quite that of the values.
    ``paired`` says that the interval compares the same requests in the same blocks.
    """

    metric: Metric
    scope: str
    a: float | None
    b: float | None
    change: Measured
    paired: bool = False

    @property
    def is_difference(self) -> bool:
        return self.metric.kind is Kind.WER

    @property
    def cost(self) -> Measured:
        """The change with "more" meaning "worse": the inverse for figures that should grow."""
        if isinstance(self.change, TooSmall) or not self.metric.larger_is_better:
            return self.change
        e = self.change
        return Estimate(1 / e.value, 1 / e.high, 1 / e.low, e.n, e.processes)


@dataclass(frozen=True)
class Pair:
    """The measured rows of two runs, aligned where both served the same requests.

    Processes of equal index drew the same requests in the same order. Where that holds, one set of
    replicates resamples both runs: what a long recording adds to both then cancels in the ratio.
    ``by_block`` says that such processes were interleaved as well: what the machine's speed did from
    block to block is then divided out (see ``levelled``).
    """

    a: pd.DataFrame
    b: pd.DataFrame
    paired: bool
    sample_a: Resampled
    sample_b: Resampled
    by_block: bool = False
    weights_a: Floats | None = None
    weights_b: Floats | None = None

    @classmethod
    def of(cls, a: pd.DataFrame, b: pd.DataFrame, interleaved: bool = False) -> Pair:
        a, b = _sorted(a), _sorted(b)
        paired = len(a) > 0 and _requests(a) == _requests(b)
        sample_a = Resampled.of(a["process"])
        sample_b = sample_a if paired else Resampled.of(b["process"], seed=SEED + 1)
        return cls(a, b, paired, sample_a, sample_b, paired and interleaved)

    @property
    def n(self) -> int:
        return min(len(self.a), len(self.b))

    def levelled(self, column: str) -> tuple[Floats, Floats]:
        """The column of both runs, each block divided by the median of what both measured in it.

        A block that ran on a slower machine would otherwise fill the tails of both runs, and its share
        of a replicate would move their percentiles (a randomized block design: Montgomery, Design and
        Analysis of Experiments, chapter 4). Within a block the ratio of B to A stays what it was.
        """
        values_a, values_b = _values(self.a, column), _values(self.b, column)
        if not self.by_block:
            return values_a, values_b
        labels = self.sample_a.groups.labels  # rows of both runs: they are paired
        rows = [labels == block for block in range(self.sample_a.groups.processes)]
        levels = [float(np.median(np.concatenate((values_a[r], values_b[r])))) for r in rows]
        if min(levels) <= 0:  # most requests spent no time in this span: there is no level to divide by
            return values_a, values_b
        level = np.asarray(levels)[labels]
        return values_a / level, values_b / level

    @property
    def processes(self) -> int:
        return min(self.sample_a.groups.processes, self.sample_b.groups.processes)


def changes(a: StoredRun, b: StoredRun, metrics: Sequence[Metric]) -> list[Change]:
    """Every metric in every scope it has: all requests, the set's mix, each bucket of both runs.

    A metric that one of the runs does not have (no GPU, no transcripts, a span that took no time,
    an RTFx that the arrivals set) is left out.
    """
    found = [change for scope, pair in _scopes(a, b) for change in _in_scope(a, b, metrics, scope, pair)]
    return sorted(found, key=lambda change: metrics.index(change.metric))


def _scopes(a: StoredRun, b: StoredRun) -> Iterator[tuple[str, Pair]]:
    rows_a, rows_b = a.measured, b.measured
    if rows_a.empty or rows_b.empty:
        return
    interleaved = a.run.series is not None and a.run.series == b.run.series
    whole = Pair.of(rows_a, rows_b, interleaved)
    yield ALL, whole
    weights_a = mix_weights(whole.a, a.run.provenance.dataset.mix)
    weights_b = mix_weights(whole.b, b.run.provenance.dataset.mix)
    if weights_a is not None and weights_b is not None:
        yield WEIGHTED, replace(whole, weights_a=weights_a, weights_b=weights_b)
    for bucket in buckets_of(rows_a):
        part_a, part_b = rows_a[rows_a["bucket"] == bucket], rows_b[rows_b["bucket"] == bucket]
        if not part_b.empty:
            yield bucket, Pair.of(part_a, part_b, interleaved)


def _in_scope(
    a: StoredRun, b: StoredRun, metrics: Sequence[Metric], scope: str, pair: Pair
) -> Iterator[Change]:
    for column in dict.fromkeys(m.column for m in metrics if m.kind is Kind.PERCENTILE):
        yield from _percentile_changes([m for m in metrics if m.column == column], scope, pair)
    if scope != ALL:
        return
    for single in metrics:
        change = None if single.per_bucket else _single_change(a, b, single, pair)
        if change is not None:
            yield change


def _single_change(a: StoredRun, b: StoredRun, metric: Metric, pair: Pair) -> Change | None:
    if metric.kind is Kind.WER:
        return _wer_change(metric, pair)
    if metric.kind is Kind.MEMORY:
        return _memory_change(metric, a, b)
    if metric.kind is Kind.PROCESS:
        return _process_change(metric, a, b)
    scheduled = a.run.mode in (Mode.OPEN, Mode.STREAMING)
    return None if scheduled else _rtfx_change(metric, pair)


def _percentile_changes(metrics: Sequence[Metric], scope: str, pair: Pair) -> Iterator[Change]:
    """The percentiles of one column, which share the work of sorting its replicates."""
    values_a, values_b = _values(pair.a, metrics[0].column), _values(pair.b, metrics[0].column)
    levelled_a, levelled_b = pair.levelled(metrics[0].column)
    bounded = [m for m in metrics if pair.n >= minimum_samples(m.q)]
    qs = [m.q for m in bounded]
    old = pair.sample_a.percentile_replicates(levelled_a, qs, weights=pair.weights_a)
    new = pair.sample_b.percentile_replicates(levelled_b, qs, weights=pair.weights_b)
    for metric in metrics:
        value_a = nearest_rank(values_a, metric.q, pair.weights_a)
        value_b = nearest_rank(values_b, metric.q, pair.weights_b)
        if value_a <= 0 or value_b <= 0:
            continue
        if metric not in bounded:
            small = TooSmall(pair.n, minimum_samples(metric.q))
            yield Change(metric, scope, None, None, small, pair.paired)
            continue
        row = bounded.index(metric)
        ratio = nearest_rank(levelled_b, metric.q, pair.weights_b) / nearest_rank(
            levelled_a, metric.q, pair.weights_a
        )
        yield Change(metric, scope, value_a, value_b, _ratio(ratio, new[row], old[row], pair), pair.paired)


def _rtfx_change(metric: Metric, pair: Pair) -> Change:
    shares_a, shares_b = wall_shares_s(pair.a), wall_shares_s(pair.b)
    audio_a, audio_b = pair.a["audio_s"].to_numpy(), pair.b["audio_s"].to_numpy()
    value_a, value_b = float(audio_a.sum() / shares_a.sum()), float(audio_b.sum() / shares_b.sum())
    if pair.n < MINIMUM_FOR_RATIO:
        return Change(metric, ALL, None, None, TooSmall(pair.n, MINIMUM_FOR_RATIO), pair.paired)
    old = pair.sample_a.ratio_replicates(audio_a, shares_a)
    new = pair.sample_b.ratio_replicates(audio_b, shares_b)
    return Change(metric, ALL, value_a, value_b, _ratio(value_b / value_a, new, old, pair), pair.paired)


def _ratio(value: float, new: Floats, old: Floats, pair: Pair) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = np.nan_to_num(new / old, nan=np.inf)
    low, high = interval(replicates, pair.processes)
    return Estimate(value, low, high, pair.n, pair.processes)


def _wer_change(metric: Metric, pair: Pair) -> Change | None:
    before, after = corpus_wer(pair.a), corpus_wer(pair.b)
    if before is None or after is None:
        return None
    difference = wer_difference(utterance_errors(pair.a), utterance_errors(pair.b))
    return Change(metric, ALL, before.point, after.point, difference, paired=True)


def _memory_change(metric: Metric, a: StoredRun, b: StoredRun) -> Change | None:
    """The ratio of the largest peaks; its interval spans every process of B against every one of A."""
    peaks_a, peaks_b = _peaks(a, metric.column), _peaks(b, metric.column)
    if not peaks_a or not peaks_b:
        return None
    n = min(len(peaks_a), len(peaks_b))
    low, high = min(peaks_b) / max(peaks_a), max(peaks_b) / min(peaks_a)
    change = Estimate(max(peaks_b) / max(peaks_a), low, high, n, n)
    return Change(metric, ALL, max(peaks_a), max(peaks_b), change)


def _process_change(metric: Metric, a: StoredRun, b: StoredRun) -> Change | None:
    old, new = figures(a, metric.name), figures(b, metric.name)
    if not old or not new or not any(old):
        return None
    change = ratio(old, new, exact=is_count(metric.name))
    return Change(metric, ALL, nearest_rank(old, 0.5), nearest_rank(new, 0.5), change, paired=True)


def _peaks(stored: StoredRun, field: str) -> list[float]:
    figures = [getattr(p.memory, field) for p in stored.run.processes if p.memory is not None]
    return [float(figure) for figure in figures if figure]


def _values(rows: pd.DataFrame, column: str) -> Floats:
    return np.asarray(rows[column].fillna(0.0), dtype=np.float64)


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["process", "request_id", "index"], ignore_index=True)


def _requests(rows: pd.DataFrame) -> list[tuple[int, str]]:
    return list(zip(rows["process"], rows["request_id"], strict=True))
