"""Whisper's encoder as openai-whisper runs it: one kernel launch per operation. Its family's reference."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from harness.protocols import EncoderOutput
from harness.protocols.options import NoOptions
from variants.encoder.memory import DeviceMemory, module_bytes

if TYPE_CHECKING:
    from harness.protocols import Evidence, FeatureBatch, ShapePlan
    from variants.models.whisper.model import AttentionModel


def build(model: AttentionModel, options: NoOptions, plan: ShapePlan) -> EagerEncoder:  # noqa: ARG001
    return EagerEncoder(model)


class EagerEncoder:
    """``harness.protocols.Encoder`` over openai-whisper's ``AudioEncoder.forward``."""

    def __init__(self, model: AttentionModel) -> None:
        self._model = model
        self._before = self._after = DeviceMemory.read(model.device)
        self._batches: Counter[int] = Counter()

    @torch.inference_mode()
    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """Windows ``[B, F, 3000]`` to ``[B, 1500, D]`` on the device."""
        rows, size = len(batch.values), self._model.size
        self._batches[rows] += 1
        features = torch.as_tensor(batch.values).to(device=self._model.device, dtype=self._model.dtype)
        states = self._model.modules.encoder(features)
        if self._batches[rows] == 1:
            # Now, and not with the evidence: by then other processes may have taken memory of the device.
            self._after = DeviceMemory.read(self._model.device, release=False)
        return EncoderOutput(states, torch.full((rows,), size.n_audio_ctx, device=states.device))

    def evidence(self) -> Evidence:
        return {
            "calls": sum(self._batches.values()),
            "batches": {str(rows): count for rows, count in sorted(self._batches.items())},
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "memory": {
                "weights_bytes": module_bytes(self._model.modules.encoder),
                "input_buffers_bytes": 0,
                **self._after.since(self._before),
            },
        }
