"""What the gate finds: a decision, and the judgements that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.comparison import Comparison
from harness.errors import ExitCode
from harness.measure.change import Change
from harness.measure.metrics import Metric


class Outcome(StrEnum):
    IMPROVED = "improved"
    SAME = "same"
    REGRESSION = "regression"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Rule:
    """``limit`` is the worsening that is allowed: a share, for WER an absolute difference."""

    metric: Metric
    scope: str
    limit: float
    required: bool = True


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of one scope; ``change`` is ``None`` where the runs do not have the metric."""

    rule: Rule
    scope: str
    outcome: Outcome
    change: Change | None = None


@dataclass(frozen=True)
class GateResult:
    """The decision, its reason in a sentence and everything it rests on."""

    exit_code: ExitCode
    reason: str
    baseline: str
    candidate: str
    judgements: tuple[Judgement, ...] = ()
    comparison: Comparison | None = None
