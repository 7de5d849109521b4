"""A run against the history of its command, for a CI job that keeps its results and measures a run a commit.

The baseline is the level since the last step (``harness.measure.steps``) of earlier runs on the same ground.
How far runs of that level lie apart says how far the next one may lie from their mean: the interval is that
of Student's prediction of one more run (Hahn & Meeker 1991, Statistical Intervals, section 4.7), so that what
a run's own interval leaves out, the machine's mood of the day, is in it. It takes three runs at least.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.errors import NotComparableError
from harness.gate_decision import decide, judge_rules
from harness.gate_result import GateResult, Rule
from harness.history import find_runs, identity, in_logarithms, quotable
from harness.measure.contrast import MINIMUM_PROCESSES, Student
from harness.measure.effects import Effect
from harness.measure.figure import Figures
from harness.measure.metrics import ALL, WEIGHTED, Kind, Metric, buckets_of
from harness.measure.stats import Estimate, Floats, TooSmall
from harness.measure.steps import FALSE_ALARM, find_steps
from harness.record import StoredRun, Tolerance
from harness.same_ground import differences
from harness.side_by_side import Comparison, compare_runs


def judge_against(
    paths: Iterable[Path],
    candidate: StoredRun,
    rules: Sequence[Rule],
    *,
    subjects: Collection[str] = (),
    tolerance: Tolerance | None = None,
) -> GateResult:
    """Decide as the gate does between two runs.

    Raises ``NotComparableError`` where no earlier run stands on the same ground, and what ``compare_runs``
    raises.
    """
    past = _earlier(paths, candidate, subjects)
    newest = compare_runs(past[-1], candidate, [], subjects=subjects, tolerance=tolerance)
    metrics = list(dict.fromkeys(rule.metric for rule in rules))
    found = tuple(_effects(past, candidate, metrics))
    comparison = Comparison(past[-1], candidate, found, newest.parity, newest.withheld)
    judgements = judge_rules(rules, comparison)
    code, reason = decide(judgements, newest.withheld)
    baseline = f"{len(past)} runs, {past[0].run.run_id} to {past[-1].run.run_id}"
    return GateResult(code, reason, baseline, candidate.run.run_id, judgements)


def _earlier(paths: Iterable[Path], candidate: StoredRun, subjects: Collection[str]) -> list[StoredRun]:
    """Of the same command, oldest first; those on other ground are no baseline."""
    run = candidate.run
    same = [
        other
        for other in quotable(find_runs(paths))
        if not isinstance(other, str)
        and identity(other.run) == identity(run)
        and (other.run.created_utc, other.run.run_id) < (run.created_utc, run.run_id)
        and not differences(other.run, run, subjects)
    ]
    if not same:
        raise NotComparableError(
            f"{run.run_id}: no earlier run of its command, audio and machine may be quoted there; measure "
            "some of the baseline first, or name what may differ with --subject"
        )
    return sorted(same, key=lambda other: (other.run.created_utc, other.run.run_id))


def _effects(past: Sequence[StoredRun], candidate: StoredRun, metrics: Sequence[Metric]) -> Iterator[Effect]:
    figures, new = [Figures(stored) for stored in past], Figures(candidate)
    buckets = buckets_of(candidate.measured)
    asked = [
        (each, scope)
        for each in metrics
        for scope in ([ALL, WEIGHTED, *buckets] if each.kind is Kind.PERCENTILE else [ALL])
    ]
    for each, scope in asked:
        before = [found for f in figures if (found := f.of(each, scope)) is not None]
        after = new.of(each, scope)
        if before and after is not None:
            yield _effect(each, scope, before, after, FALSE_ALARM / len(asked))


def _effect(
    each: Metric, scope: str, before: Sequence[Estimate | TooSmall], after: Estimate | TooSmall, level: float
) -> Effect:
    known = np.array([figure.value for figure in before if isinstance(figure, Estimate)])
    if isinstance(after, TooSmall):
        return Effect(each, scope, None, None, after, after.n, len(known))
    logarithms = in_logarithms(each)
    if logarithms and min(after.value, *known) <= 0:
        return Effect(each, scope, None, after.value, TooSmall(0, MINIMUM_PROCESSES), 0, 0)
    row = np.log(known) if logarithms else known
    row = _current(row, level)
    if len(row) < MINIMUM_PROCESSES:
        return Effect(
            each, scope, None, after.value, TooSmall(len(row), MINIMUM_PROCESSES), len(row), len(row)
        )
    new = math.log(after.value) if logarithms else after.value
    middle = math.exp(row.mean()) if logarithms else float(row.mean())
    return Effect(each, scope, middle, after.value, predicted(row, new), len(row), len(row))


def _current(row: Floats, level: float) -> Floats:
    """The figures since the last step."""
    steps = find_steps(row, level)
    return row[steps[-1].place if steps else 0 :]


def predicted(row: Floats, new: float) -> Student:
    """How far ``new`` lies from the mean of ``row [n]``, with the error of one more of its kind."""
    n = len(row)
    error = float(row.std(ddof=1)) * math.sqrt(1 + 1 / n)
    return Student(new - float(row.mean()), error, n - 1)
