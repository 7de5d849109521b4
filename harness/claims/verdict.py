"""From a comparison to a verdict, by the rule of the claim's leaf."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum, auto

from harness.claims.leaf import Condition, Leaf, Within
from harness.measure.effects import Effect
from harness.measure.stats import Estimate


class Verdict(StrEnum):
    """What this machine says about a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_HERE = "not here"
    UNDECIDED = "undecided"
    """Measured, but no interval says it: too few rounds, or a run that is not VALID."""
    CANNOT_RUN = "cannot run here"
    NOT_BUILT = "not built"
    """This version lacks a part that the claim needs, on any machine."""
    FAILED = "failed"
    """Measuring ended with an error, which the report names."""


class Answer(Enum):
    YES = auto()
    NO = auto()
    OPEN = auto()


def verdict_of(leaf: Leaf, changes: Sequence[Effect]) -> Verdict:
    """All conditions of ``holds``, or one of ``partly``; none of them shown wrong leaves it undecided."""
    holds = [answer(condition, changes) for condition in leaf.holds]
    if all(found is Answer.YES for found in holds):
        return Verdict.REPRODUCED
    partly = [answer(condition, changes) for condition in leaf.partly]
    if Answer.YES in partly:
        return Verdict.PARTLY
    return Verdict.UNDECIDED if Answer.OPEN in partly else Verdict.NOT_HERE


def within_of(within: Within, audio_s: Sequence[float], walls_s: Sequence[float]) -> Verdict:
    """Of the processes of an offline run: the slowest decides. Less audio than claimed decides nothing."""
    if not walls_s or min(audio_s) < within.audio_s:
        return Verdict.UNDECIDED
    if max(walls_s) <= within.holds_s:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if max(walls_s) <= within.partly_s else Verdict.NOT_HERE


def answer(condition: Condition, changes: Sequence[Effect]) -> Answer:
    """Where the whole interval of the ratio lies: within the limits, beyond one of them, or across it."""
    change = next(
        (c for c in changes if (c.metric.name, c.scope) == (condition.metric, condition.scope)), None
    )
    if change is None or not isinstance(change.change, Estimate):
        return Answer.OPEN
    least, most = _limits(condition, change.a)
    low, high = change.change.low, change.change.high
    if low >= least and high <= most:
        return Answer.YES
    return Answer.NO if high < least or low > most else Answer.OPEN


def _limits(condition: Condition, baseline: float | None) -> tuple[float, float]:
    """The least and the largest ratio; what is saved is at most the baseline's own figure."""
    limits = [condition.at_most] if condition.at_most is not None else []
    if condition.saves_s is not None:
        limits.append(1.0 - condition.saves_s / baseline if baseline else -1.0)
    return condition.at_least or 0.0, min(limits, default=float("inf"))
