"""The chunks of a step: where they and their windows lie, and how an encoder is given them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from harness.protocols import Encoder, EncoderOutput, Evidence, FeatureBatch
from variants.serving.window import Contexts


class Chunks:
    """The next chunk of each of several streams, in its window: int64 ``[B]``.

    ``start``, ``decoded``, ``end`` and ``decoded_after`` are samples of the stream: the window begins, the
    chunk begins, the window ends, the next chunk begins. In encoder frames: ``before`` of the window lie
    before the chunk, ``states`` are the chunk's, ``total`` the window's; ``first`` numbers the chunk's first.
    """

    def __init__(self, contexts: Contexts, hop: int, decoded: np.ndarray, heard: np.ndarray) -> None:
        ahead = contexts.chunk + contexts.right
        last = heard - decoded < ahead
        self.decoded = decoded
        self.start = np.maximum(0, decoded - contexts.left)
        self.end = np.where(last, heard, decoded + ahead)
        self.decoded_after = np.where(last, heard, decoded + contexts.chunk)
        self.first = decoded // contexts.frame
        self.before = (decoded - self.start) // contexts.frame
        self.total = -(-(self.end // hop - self.start // hop) // (contexts.frame // hop))
        self.states = np.where(last, self.total - self.before, contexts.chunk // contexts.frame)


class ChunkEncoder(Protocol):
    """From windows of features to the states of their chunks."""

    @property
    def hears_again(self) -> bool:
        """Whether the left context is computed anew for each chunk."""
        ...

    def encode(self, windows: FeatureBatch, chunks: Chunks, slots: torch.Tensor) -> EncoderOutput:
        """``[B, C, D]``: states of the chunks alone."""
        ...

    def keep(self) -> None:
        """What the last call computed counts: the next chunks of its streams follow it."""
        ...

    def evidence(self) -> Evidence: ...


class WindowedChunks:
    """``ChunkEncoder``: any encoder, given the whole of every window, as if it were a recording."""

    hears_again = True

    def __init__(self, encoder: Encoder, most_frames: int | None = None) -> None:
        """``most_frames``: of features that the encoder is given at once, where more are no faster."""
        self._encoder = encoder
        self._most_frames = most_frames

    def encode(self, windows: FeatureBatch, chunks: Chunks, slots: torch.Tensor) -> EncoderOutput:
        rows = len(slots)
        at_once = max(1, self._most_frames // int(windows.lengths.max())) if self._most_frames else rows
        parts = [self._of(windows, chunks, slice(n, n + at_once)) for n in range(0, rows, at_once)]
        if len(parts) == 1:
            return parts[0]
        return EncoderOutput(
            torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts])
        )

    def _of(self, windows: FeatureBatch, chunks: Chunks, rows: slice) -> EncoderOutput:
        lengths = windows.lengths[rows]
        encoded = self._encoder.encode(FeatureBatch(windows.values[rows, :, : int(lengths.max())], lengths))
        values = encoded.values
        begin, wanted = (
            torch.from_numpy(each[rows]).to(values.device) for each in (chunks.before, chunks.states)
        )
        count = wanted.minimum((encoded.lengths.to(values.device) - begin).clamp(min=0))
        at = begin[:, None] + torch.arange(int(chunks.states.max()), device=values.device)
        row = torch.arange(len(values), device=values.device)[:, None]
        return EncoderOutput(values[row, at.clamp(max=values.shape[1] - 1)], count)

    def keep(self) -> None:
        """It keeps nothing."""

    def evidence(self) -> Evidence:
        return {"method": "window"}
