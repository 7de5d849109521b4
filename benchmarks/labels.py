"""The same answer before any speed: labels of a decoder against the reference's.

A comparison of two utterances ends at their first difference: what follows has another history. Whether a
difference is a tie that rounding decided, exact arithmetic tells.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from harness.errors import InvalidMeasurementError
from harness.measure.stats import nearest_rank
from harness.protocols import EncoderOutput, Hypothesis
from variants.models.types import TdtModel

NEAR_TIE: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.16}
)
"""Greatest margin of a first difference that the rounding of that number type explains."""
_TYPICAL_OF = 8


@dataclass(frozen=True, slots=True)
class Agreement:
    """``largest_margin`` is the greatest gap, among all first differences, between the two best choices that
    exact arithmetic sees on the frames in question; ``typical_margin`` the median gap halfway through."""

    utterances: int
    identical: int
    labels_compared: int
    differences: int
    largest_margin: float
    typical_margin: float


def compare(
    model: TdtModel, encoded: EncoderOutput, reference: Sequence[Hypothesis], found: Sequence[Hypothesis]
) -> Agreement:
    """``found`` against ``reference``, label by label with frame and duration."""
    pairs = list(zip(reference, found, strict=True))
    common = [_common(a, b) for a, b in pairs]
    margins = [
        margin_after(model, encoded, row, a, common[row]) for row, (a, b) in enumerate(pairs) if a != b
    ]
    typical = [
        margin_after(model, encoded, row, hypothesis, len(hypothesis.tokens) // 2)
        for row, hypothesis in enumerate(reference[:_TYPICAL_OF])
        if hypothesis.tokens
    ]
    return Agreement(
        utterances=len(pairs),
        identical=len(pairs) - len(margins),
        labels_compared=sum(common),
        differences=len(margins),
        largest_margin=max(margins, default=0.0),
        typical_margin=nearest_rank(typical, 0.5) if typical else math.nan,
    )


def merge(parts: Sequence[Agreement]) -> Agreement:
    """Of several batches."""
    return Agreement(
        utterances=sum(part.utterances for part in parts),
        identical=sum(part.identical for part in parts),
        labels_compared=sum(part.labels_compared for part in parts),
        differences=sum(part.differences for part in parts),
        largest_margin=max(part.largest_margin for part in parts),
        typical_margin=nearest_rank([part.typical_margin for part in parts], 0.5),
    )


def require(agreement: Agreement, dtype: torch.dtype, what: str) -> Agreement:
    """``agreement``, or ``InvalidMeasurementError`` that names ``what``."""
    if not agreement.largest_margin <= NEAR_TIE[dtype]:
        raise InvalidMeasurementError(
            f"{what} differs from the reference in {agreement.differences} of {agreement.utterances} "
            f"utterances by a margin of {agreement.largest_margin:.3f}, where rounding explains "
            f"{NEAR_TIE[dtype]}; its speed is withheld"
        )
    return agreement


def _common(a: Hypothesis, b: Hypothesis) -> int:
    """Labels before the first that differs in token, frame or duration."""
    ours = zip(a.tokens, a.frames, a.durations, strict=True)
    theirs = zip(b.tokens, b.frames, b.durations, strict=True)
    count = 0
    for x, y in zip(ours, theirs, strict=False):
        if x != y:
            break
        count += 1
    return count


@torch.inference_mode()
def margin_after(
    model: TdtModel, encoded: EncoderOutput, row: int, hypothesis: Hypothesis, count: int
) -> float:
    """The smallest gap between best and second best (token or duration) on the way to the next label.

    The first ``count`` labels are given; the prediction network and the joint are computed in float64 from
    the same weights; states stay unrounded.
    """
    prednet: Any = copy.deepcopy(model.prednet).double()
    joint: Any = copy.deepcopy(model.joint).double()
    labels = torch.tensor([[model.blank_id, *hypothesis.tokens[:count]]], device=model.device)
    output, _ = prednet.predict(labels, None, add_sos=False, batch_size=1)
    prediction = joint.project_prednet(output[:, -1:])  # [1, 1, J]
    states = joint.project_encoder(encoded.values[row : row + 1].double())
    frame = _next_frame(model, hypothesis, count)
    smallest = math.inf
    while frame < int(encoded.lengths[row]):
        logits = joint.joint_after_projection(states[:, frame : frame + 1], prediction)[0, 0, 0]
        tokens, durations = logits[: model.blank_id + 1], logits[model.blank_id + 1 :]
        for part in (tokens, durations):
            best = part.topk(2).values
            smallest = min(smallest, float(best[0] - best[1]))
        if int(tokens.argmax()) != model.blank_id:
            break
        frame += max(model.durations[int(durations.argmax())], 1)
    return smallest


def _next_frame(model: TdtModel, hypothesis: Hypothesis, count: int) -> int:
    """The frame at which the search stands after ``count`` labels."""
    if not count:
        return 0
    last, skip = hypothesis.frames[count - 1], hypothesis.durations[count - 1]
    exhausted = hypothesis.frames[:count].count(last) >= model.max_symbols
    return last + (1 if skip == 0 and exhausted else skip)
