"""Chunks of live streams through an encoder that keeps what it needs of the past."""

from __future__ import annotations

import numpy as np
import torch

from harness.protocols import EncoderOutput, Evidence, FeatureBatch
from variants.encoder.cached import CachedConformer, CachedLayers, Step
from variants.serving.chunks import Chunks
from variants.serving.window import Contexts

_LEAD = 1
"""States before the chunk that are subsampled again: further back no convolution of the subsampling hears."""


class CachedChunks:
    """``variants.serving.chunks.ChunkEncoder``. Features are normalized over the window as ever, of which
    the frames of chunk and right context alone are encoded."""

    hears_again = False

    def __init__(self, layers: CachedLayers, contexts: Contexts, hop: int, slots: int) -> None:
        self._layers = layers
        self._per_state = contexts.frame // hop
        with torch.inference_mode():
            self._conformer = CachedConformer(layers, slots, contexts.left // contexts.frame)
        self._kept_s = contexts.left / contexts.sample_rate
        self._step: Step | None = None

    def encode(self, windows: FeatureBatch, chunks: Chunks, slots: torch.Tensor) -> EncoderOutput:
        frames = self._subsampled(windows, chunks)
        decoded, before, total, states = (
            torch.from_numpy(each).to(frames.device)
            for each in (chunks.first, chunks.before, chunks.total, chunks.states)
        )
        self._step = Step(slots.to(frames.device), decoded, before, total - before, states)
        return EncoderOutput(self._conformer(frames, self._step)[:, : int(chunks.states.max())], states)

    def keep(self) -> None:
        if self._step is not None:
            self._conformer.keep(self._step)
            self._step = None

    def evidence(self) -> Evidence:
        return {
            "method": "cached: an approximation of the window, unless the model was trained for it",
            "kept_s": self._kept_s,
            "kept_bytes": self._conformer.bytes,
        }

    def _subsampled(self, windows: FeatureBatch, chunks: Chunks) -> torch.Tensor:
        """``[B, T, D]`` from the chunk's first frame on. Rows at a stream's beginning have nothing before it,
        which is another thing than silence: they are subsampled apart."""
        like = self._layers.like
        features = torch.as_tensor(windows.values).to(device=like.device, dtype=like.dtype)
        lead = np.minimum(chunks.before, _LEAD)
        counts = chunks.total - chunks.before
        x = like.new_zeros(len(lead), int(counts.max()), self._layers.width)
        for length in np.unique(lead):
            rows = np.flatnonzero(lead == length)
            first = (chunks.before[rows] - length) * self._per_state
            frames = windows.lengths[rows] - first
            at = torch.from_numpy(first[:, None] + np.arange(frames.max())).to(like.device)
            index = torch.from_numpy(rows).to(like.device)
            shown = features[index[:, None], :, at.clamp(max=features.shape[2] - 1)]  # [b, t, F]
            found, _ = self._layers.subsample(x=shown, lengths=torch.from_numpy(frames).to(like.device))
            x[index, : found.shape[1] - int(length)] = found[:, int(length) :]
        return x
