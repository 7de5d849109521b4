"""Whisper's encoder over the beginning of a window alone, where its sound is.

Whisper was trained on windows padded to thirty seconds, and its words depend on that silence: this is an
approximation, whose text is held to the eager encoder's by its word error rate. The layers are our own.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from harness.protocols import EncoderOutput
from variants.encoder.attention.fused import FusedEncoder
from variants.encoder.options import Trimmed
from variants.models.whisper.features import HOP, SAMPLE_RATE, WINDOW_FRAMES

if TYPE_CHECKING:
    from harness.protocols import Evidence, FeatureBatch, ShapePlan
    from variants.models.whisper.model import AttentionModel

_FRAMES_PER_S = SAMPLE_RATE // HOP


def build(model: AttentionModel, options: Trimmed, plan: ShapePlan) -> TrimmedEncoder:  # noqa: ARG001
    return TrimmedEncoder(model, options)


class TrimmedEncoder:
    """``harness.protocols.Encoder``."""

    def __init__(self, model: AttentionModel, options: Trimmed) -> None:
        self._model, self._options = model, options
        self._encoder = FusedEncoder(model, lambda function: function)
        self._calls: Counter[int] = Counter()
        self._sound = 0

    @torch.inference_mode()
    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """Windows ``[B, F, 3000]`` to ``[B, T / 2, D]``, of as many frames as the longest has sound."""
        longest = int(batch.lengths.max(initial=0))
        kept = self._kept(longest)
        self._calls[kept] += 1
        self._sound += longest
        features = torch.as_tensor(batch.values[:, :, :kept])
        states = self._encoder(features.to(device=self._model.device, dtype=self._model.dtype))
        return EncoderOutput(states, torch.full((len(states),), states.shape[1], device=states.device))

    def _kept(self, longest: int) -> int:
        """Frames, an even number: two of them are a state."""
        granule = max(2, round(self._options.granule_s * _FRAMES_PER_S) // 2 * 2)
        wanted = longest + round(self._options.margin_s * _FRAMES_PER_S)
        return min(WINDOW_FRAMES, -(-wanted // granule) * granule)

    def evidence(self) -> Evidence:
        calls, kept = self._calls.total(), sum(frames * count for frames, count in self._calls.items())
        untrimmed = calls and set(self._calls) == {WINDOW_FRAMES}
        return {
            "calls": calls,
            "frames": {str(frames): count for frames, count in sorted(self._calls.items())},
            "kept_share": kept / (calls * WINDOW_FRAMES) if calls else 0.0,
            "sound_share": self._sound / (calls * WINDOW_FRAMES) if calls else 0.0,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "not_engaged": "every window was too full to be cut" if untrimmed else None,
        }
