"""Whisper's encoder as CUDA graphs, one for each batch size: every window has the same length.

``backend: graph`` captures openai-whisper's kernels as they are, ``inductor`` its layers compiled, ``fused``
our own layers compiled. Options that place length buckets have nothing to place here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import UnavailableError, UsageError
from harness.protocols import EncoderOutput, FeatureBatch
from variants.encoder.attention.eager import EagerEncoder
from variants.encoder.attention.fused import FusedEncoder
from variants.encoder.bucketed import Call, on_host
from variants.encoder.compiled import Forward, GraphRecorder, Recorder, compilations
from variants.encoder.memory import DeviceMemory, module_bytes
from variants.encoder.options import Compiled
from variants.encoder.parity import LIMITS, Agreement, require
from variants.encoder.shapes import batch_sizes
from variants.models.whisper.features import WINDOW_FRAMES

if TYPE_CHECKING:
    from harness.protocols import BuildProgress, Evidence, ShapePlan
    from variants.models.whisper.model import AttentionModel


def build(model: AttentionModel, options: Compiled, plan: ShapePlan) -> CompiledEncoder:
    """Capture every batch size and hold each to openai-whisper's encoder.

    Raises ``UnavailableError`` without a GPU, ``InvalidMeasurementError`` naming a batch that differs.
    """
    if model.device.type != "cuda":
        raise UnavailableError(
            f"encoder=compiled captures CUDA graphs and the model is on {model.device}: use a GPU"
        )
    encoder = CompiledEncoder(model, options, plan.max_batch, GraphRecorder(model.device), plan.progress)
    encoder.verify(plan.progress)
    return encoder


class CompiledEncoder:
    """``harness.protocols.Encoder``. For one thread at a time."""

    def __init__(
        self,
        model: AttentionModel,
        options: Compiled,
        max_batch: int,
        recorder: Recorder,
        progress: BuildProgress,
    ) -> None:
        self._model, self._options, self._recorder = model, options, recorder
        self._sizes = sorted(options.batches or batch_sizes(max_batch))
        before = DeviceMemory.read(model.device)
        shape = (self._sizes[-1], model.size.n_mels, WINDOW_FRAMES)
        self._features = torch.zeros(shape, device=model.device)
        self._lengths = torch.full((shape[0],), model.size.n_audio_ctx, device=model.device)
        self._calls = self._capture(progress)
        self._captures = recorder.captures
        self._memory = DeviceMemory.read(model.device).since(before)
        self._runs: Counter[int] = Counter()
        self._parity: dict[int, Agreement] = {}

    def _capture(self, progress: BuildProgress) -> Mapping[int, Call]:
        calls: dict[int, Call] = {}
        with compilations(len(self._sizes)):
            forward = forward_of(self._model, self._options)
            for number, size in enumerate(reversed(self._sizes)):
                progress(f"compiling and capturing, batch {size}", number, len(self._sizes))
                calls[size] = self._recorder.record(forward, self._features[:size], self._lengths[:size])
        return calls

    @torch.inference_mode()
    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """Windows ``[B, F, 3000]`` to ``[B, 1500, D]`` in memory of its own."""
        largest = self._sizes[-1]
        parts = [
            self._piece(batch.values[first : first + largest])
            for first in range(0, len(batch.values), largest)
        ]
        states = torch.cat(parts) if len(parts) != 1 else parts[0]
        return EncoderOutput(
            states, torch.full((len(states),), self._model.size.n_audio_ctx, device=states.device)
        )

    def _piece(self, values: np.ndarray | torch.Tensor) -> torch.Tensor:
        count = len(values)
        size = next(size for size in self._sizes if size >= count)
        self._features[:count].copy_(torch.as_tensor(values), non_blocking=True)
        self._calls[size].run()
        self._runs[size] += 1
        # Static outputs are overwritten by the next run of this size; what leaves here is not.
        return self._calls[size].states[:count].clone()

    def verify(self, progress: BuildProgress) -> None:
        """Hold every batch size to the eager encoder. Leaves the counts as if it had not been."""
        eager = EagerEncoder(self._model)
        for number, size in enumerate(self._sizes):
            progress("comparing each batch with the eager encoder", number, len(self._sizes))
            batch = probe(size, self._model.size.n_mels)
            precision = str(self._model.dtype).removeprefix("torch.")
            what = f"encoder=compiled: batch {size} ({precision})"
            expected, found = on_host(eager.encode(batch)), on_host(self.encode(batch))
            self._parity[size] = require(expected, found, LIMITS[precision], what)
        self._runs.clear()

    def evidence(self) -> Evidence:
        after = self._recorder.captures - self._captures
        return {
            "backend": self._options.backend,
            "mode": self._options.mode,
            "captures": self._captures,
            "captures_after_build": after,
            "replays": sum(self._runs.values()),
            "batches": {str(size): self._runs[size] for size in self._sizes},
            "parity": {str(size): asdict(agreement) for size, agreement in self._parity.items()},
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "memory": {
                "weights_bytes": module_bytes(self._model.modules.encoder),
                "input_buffers_bytes": self._features.numel() * self._features.element_size(),
                **self._memory,
            },
            "not_engaged": f"{after} batches were captured after the build" if after else None,
        }


def forward_of(model: AttentionModel, options: Compiled) -> Forward:
    """The encoder as a graph can hold it. Raises ``UsageError`` for a backend that Whisper does not have."""
    compile = partial(torch.compile, dynamic=False, fullgraph=True, mode=options.mode)
    encoder: Any
    if options.backend == "fused":
        encoder = FusedEncoder(model, compile)
    elif options.backend == "inductor":
        encoder = copy.copy(model.modules.encoder)
        encoder._modules = dict(encoder._modules)
        compiled: list[Any] = [compile(block) for block in encoder.blocks]
        encoder.blocks = torch.nn.ModuleList(compiled)
    elif options.backend == "graph":
        encoder = model.modules.encoder
    else:
        raise UsageError(
            f"encoder.options.backend={options.backend}: for a model of family attention choose graph, "
            "inductor or fused"
        )

    def forward(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return encoder(features.to(model.dtype)), lengths

    return forward


def probe(rows: int, bins: int) -> FeatureBatch:
    """Windows in which something goes on for a while, at the level of Whisper's features."""
    rng = np.random.default_rng(rows)
    values = np.full((rows, bins, WINDOW_FRAMES), -0.8, np.float32)
    for row, length in enumerate(np.linspace(WINDOW_FRAMES, 100, rows).astype(int)):
        moving = np.cumsum(rng.standard_normal((bins, length), np.float32), axis=1)
        values[row, :, :length] = 0.5 * np.sin(moving)
    return FeatureBatch(values, np.full(rows, WINDOW_FRAMES, np.int64))
