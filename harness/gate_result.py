"""What the gate finds: a decision, and the judgements that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.errors import ExitCode
from harness.measure.effects import Effect
from harness.measure.metrics import Metric
from harness.side_by_side import Comparison


class Outcome(StrEnum):
    IMPROVED = "improved"
    SAME = "same"
    REGRESSION = "regression"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


OPEN_QUESTIONS = (Outcome.INCONCLUSIVE, Outcome.NOT_MEASURED)


@dataclass(frozen=True, slots=True)
class Rule:
    """``limit`` is the worsening that the gate is there to find: a share, for ``wer`` and ``failures`` an
    absolute difference."""

    metric: Metric
    scope: str
    limit: float
    required: bool = True


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of one scope; ``effect`` is ``None`` where the runs do not have the metric.

    ``p`` is the chance of such a figure where nothing is worse, all rules and looks counted.
    """

    rule: Rule
    scope: str
    outcome: Outcome
    effect: Effect | None = None
    p: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.rule.metric.name} ({self.scope})"


@dataclass(frozen=True)
class GateResult:
    """The decision, its reason in a sentence and everything it rests on."""

    exit_code: ExitCode
    reason: str
    baseline: str
    candidate: str
    judgements: tuple[Judgement, ...] = ()
    comparison: Comparison | None = None
