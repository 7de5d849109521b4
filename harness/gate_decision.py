"""Whether a candidate is worse than a baseline: the statistics of the gate.

Each rule weighs two statements about its metric: "no worse", and "worse by the limit or more". Where
the interval of the change ends below the limit, the second is refuted: same, or improved. Where such a
change would be too rare if the first were true, and the second is not refuted, it is a regression. Where
neither can be refuted the rule is inconclusive. (Both are tests of non-inferiority; Piaggio et al. 2012,
CONSORT, figure 1. Between "no worse" and the limit either answer is right, and only more measuring
tells them apart.)

Many rules make many chances for a false alarm, and so does looking again and again. ``FALSE_ALARM`` bounds
the chance of one regression or more where nothing is worse, over all rules and looks: it is divided evenly
between the required rules (the total) and the others (where it is), and between ``LOOKS`` looks; within
either group Holm's procedure divides it further. A pass needs every required rule to refute its limit, so
that many rules make a false pass rarer: its error, ``FALSE_PASS`` on each side, is divided between the
looks alone. Both hold however the looks depend on each other (Bonferroni), and for a run that was looked at
once; so a stored run is judged as it was while it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import ExitCode, InvalidMeasurementError, NotComparableError
from harness.gate_result import OPEN_QUESTIONS, GateResult, Judgement, Outcome, Rule
from harness.measure.contrast import holm
from harness.measure.cpu import disturbances
from harness.measure.effects import Effect
from harness.measure.metrics import ALL, WEIGHTED
from harness.measure.stats import Estimate, TooSmall
from harness.record import Run, StoredRun
from harness.side_by_side import Comparison, compare_runs

FALSE_ALARM = 0.01
FALSE_PASS = 0.025
LOOKS = 4
CONFIDENCE = 1 - 2 * FALSE_PASS / LOOKS
"""Of the intervals that decide, one of ``LOOKS`` looks."""
BUCKETS = "buckets"
"""The scope of a rule that holds for each bucket."""


def looks(rounds: int) -> tuple[int, ...]:
    """After how many rounds to look, given the most that there may be: at doublings, the last included."""
    halved = {-(-rounds // 2**k) for k in range(LOOKS)}
    return tuple(sorted(n for n in halved if n >= min(rounds, 3)))


def judge_runs(a: StoredRun, b: StoredRun, rules: Sequence[Rule], **options: Any) -> GateResult:
    """Compare and decide; ``options`` are those of ``compare_runs``.

    Runs that must not be compared are a result too (exit codes 4 and 6).
    """
    undecided = GateResult(ExitCode.INTERNAL, "", a.run.run_id, b.run.run_id)
    try:
        comparison = compare_runs(a, b, list(dict.fromkeys(rule.metric for rule in rules)), **options)
    except (InvalidMeasurementError, NotComparableError) as error:
        return replace(undecided, exit_code=error.exit_code, reason=str(error))
    judgements = judge_rules(rules, comparison)
    code, reason = decide(judgements, comparison.withheld)
    if code is ExitCode.INCONCLUSIVE:
        reason = "; ".join([reason, *_disturbances(a.run), *_disturbances(b.run)])
    return replace(undecided, exit_code=code, reason=reason, judgements=judgements, comparison=comparison)


def _disturbances(run: Run) -> list[str]:
    return [f"in {run.run_id} {what}" for what in disturbances([p.cpu for p in run.processes])]


def judge_rules(rules: Sequence[Rule], comparison: Comparison) -> tuple[Judgement, ...]:
    """One judgement per rule and scope that it holds for."""
    asked = [judgement for rule in rules for judgement in _unjudged(rule, comparison)]
    return tuple(_judged(judgement, p) for judgement, p in zip(asked, _chances(asked), strict=True))


def _unjudged(rule: Rule, comparison: Comparison) -> Iterator[Judgement]:
    if comparison.withheld is not None and rule.metric.is_speed:
        return  # the reason is the result's; no speed is judged
    concerned = [e for e in comparison.effects if e.metric == rule.metric and _in_scope(e.scope, rule.scope)]
    for effect in concerned:
        yield Judgement(rule, effect.scope, Outcome.INCONCLUSIVE, effect)
    if not concerned:
        yield Judgement(rule, rule.scope, Outcome.NOT_MEASURED)


def _chances(asked: Sequence[Judgement]) -> list[float]:
    """The chance of each figure where nothing is worse, all rules and looks counted."""
    chances = [1.0] * len(asked)
    groups: dict[bool, dict[int, float]] = {}
    for i, judgement in enumerate(asked):
        if judgement.effect is not None and not isinstance(judgement.effect.contrast, TooSmall):
            groups.setdefault(judgement.rule.required, {})[i] = judgement.effect.p_worse
    for group in groups.values():
        for i, p in zip(group, holm(list(group.values())), strict=True):
            chances[i] = min(1.0, p * len(groups) * LOOKS)
    return chances


def _judged(judgement: Judgement, p: float) -> Judgement:
    if judgement.effect is None:
        return judgement
    return replace(judgement, outcome=outcome_of(judgement.effect, judgement.rule.limit, p), p=p)


def outcome_of(effect: Effect, limit: float, p: float) -> Outcome:
    """Where the interval of the cost lies with respect to the limit, and whether "no worse" is refuted."""
    cost = effect.cost(CONFIDENCE)
    if isinstance(cost, TooSmall):
        return Outcome.INCONCLUSIVE
    unchanged = 0.0 if effect.is_difference else 1.0
    if cost.high <= unchanged + limit:
        return Outcome.IMPROVED if cost.high < unchanged else Outcome.SAME
    return Outcome.REGRESSION if p <= FALSE_ALARM else Outcome.INCONCLUSIVE


def decide(judgements: Sequence[Judgement], withheld: str | None) -> tuple[ExitCode, str]:
    """The worst finding wins: a regression, withheld speed, a required rule without an answer."""
    regressions = [j for j in judgements if j.outcome is Outcome.REGRESSION]
    if regressions:
        also = "" if withheld is None else f"; speed withheld: {withheld}"
        return ExitCode.REGRESSION, f"regression in {_names(regressions)}{also}"
    if withheld is not None:
        return ExitCode.INVALID, f"speed withheld: {withheld}"
    unanswered = open_questions(judgements)
    if unanswered:
        return ExitCode.INCONCLUSIVE, (
            f"inconclusive in {_names(unanswered)}: measure more requests or rounds, "
            "interleaved (python -m harness.gate --of BASELINE --of CANDIDATE does so until it can tell)"
        )
    improved = [j for j in judgements if j.outcome is Outcome.IMPROVED]
    if improved:
        return ExitCode.DONE, f"improved in {_names(improved)}, no regression"
    return ExitCode.DONE, "same: no regression within the limits"


def open_questions(judgements: Sequence[Judgement], narrow: float | None = None) -> list[Judgement]:
    """Required rules without an answer, but for those whose interval is within ``narrow`` of its value."""
    unanswered = [j for j in judgements if j.rule.required and j.outcome in OPEN_QUESTIONS]
    return [j for j in unanswered if narrow is None or half_width(j) > narrow]


def half_width(judgement: Judgement) -> float:
    """Of the interval that decides: relative, for shares absolute; infinite where there is none."""
    change = None if judgement.effect is None else judgement.effect.change_at(CONFIDENCE)
    if not isinstance(change, Estimate) or judgement.effect is None:
        return float("inf")
    width = (change.high - change.low) / 2
    return width if judgement.effect.is_difference else width / change.value


def _in_scope(scope: str, wanted: str) -> bool:
    return scope not in (ALL, WEIGHTED) if wanted == BUCKETS else scope == wanted


def _names(judgements: Sequence[Judgement]) -> str:
    return ", ".join(dict.fromkeys(judgement.name for judgement in judgements))
