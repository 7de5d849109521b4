"""The encoder as NeMo runs it: one kernel launch per operation. The reference of the encoder axis."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from harness.protocols import EncoderOutput
from harness.protocols.options import NoOptions
from variants.encoder.memory import DeviceMemory, module_bytes

if TYPE_CHECKING:
    from harness.protocols import Evidence, FeatureBatch, ShapePlan
    from variants.models.types import TdtModel


def build(model: TdtModel, options: NoOptions, plan: ShapePlan) -> EagerEncoder:  # noqa: ARG001
    """The encoder of ``model``, its positional table long enough for every segment of ``plan``."""
    extend_positions(model, max((*plan.buckets_s, *plan.segment_lengths_s), default=0.0))
    return EagerEncoder(model)


def extend_positions(model: TdtModel, longest_s: float) -> None:
    """NeMo rebuilds its table of relative positions during the first call that is longer than any
    before it, 50 s to begin with: inside a measured request, were it not done here."""
    encoder: Any = model.encoder
    frames = round(longest_s / model.hop_s) + 1
    if frames > encoder.max_audio_length:
        encoder.set_max_audio_length(frames)


class EagerEncoder:
    """``harness.protocols.Encoder`` over ``ConformerEncoder.forward``."""

    def __init__(self, model: TdtModel) -> None:
        self._model = model
        self._before = self._after = DeviceMemory.read(model.device)
        self._shapes: Counter[tuple[int, int]] = Counter()

    @torch.inference_mode()
    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """``[B, F, T]`` on the host to ``[B, T', D]`` on the device. NeMo masks what lies beyond the
        lengths in each subsampling stage, in attention and before each depthwise convolution."""
        model = self._model
        rows, _, frames = batch.values.shape
        self._shapes[(rows, frames)] += 1
        lengths = torch.from_numpy(batch.lengths).to(model.device)
        if rows == 0 or frames == 0:  # a convolution refuses either
            width: Any = model.encoder.d_model
            empty = torch.zeros((rows, 0, width), dtype=model.dtype, device=model.device)
            return EncoderOutput(empty, torch.zeros_like(lengths))
        features = torch.as_tensor(batch.values).to(device=model.device, dtype=model.dtype)
        states, state_lengths = model.encoder(audio_signal=features, length=lengths)  # [B, D, T'], [B]
        if self._shapes[(rows, frames)] == 1:
            # Now, and not with the evidence: by then other processes may have taken memory of the device.
            # The first call of a shape is slow anyway, and the warm-up's.
            self._after = DeviceMemory.read(model.device, release=False)
        return EncoderOutput(states.transpose(1, 2), state_lengths)

    def evidence(self) -> Evidence:
        return {
            "calls": sum(self._shapes.values()),
            "shapes": {f"{rows}x{frames}": count for (rows, frames), count in sorted(self._shapes.items())},
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "memory": {
                "weights_bytes": module_bytes(self._model.encoder),
                "input_buffers_bytes": 0,
                # Nothing is prepared: its activations are what the calls have left in torch's cache, which
                # the decoder's calls use as well.
                **self._after.since(self._before),
            },
        }
