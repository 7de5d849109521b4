"""Log-mel features of live streams: each frame is computed once and kept as long as a window may show it.

The formulas are those of ``variants.models.features``. What is kept is the log-mel before normalization,
which is the window's. Where a window begins later than its stream, its first two frames hear the sound before
it, which a clip of the window would replace by zeros (the padding of a centred transform). Its last frame
hears zeros beyond the window's end, as in such a clip, even where the sound goes on: what a window shows
depends on its place alone, not on how much has come. That one frame is computed again for the next window.
"""

from __future__ import annotations

import torch

from variants.models.device_features import BatchLogMel, normalized


class FeatureRing:
    """The last ``frames`` frames of each of ``slots`` streams, on the device of ``log_mel``, in memory that
    is there from the beginning.

    Frames and samples count from a stream's beginning; frame ``t`` is centred on sample ``t * hop``.
    """

    def __init__(self, log_mel: BatchLogMel, slots: int, frames: int) -> None:
        self._log_mel = log_mel
        self._frames = frames
        # Last of all a frame that nobody reads, for what is computed beyond a row's own.
        self._ring = log_mel.mel.new_zeros(slots, frames + 1, len(log_mel.mel))  # [S, R + 1, F]

    @property
    def device(self) -> torch.device:
        return self._ring.device

    @property
    def hop(self) -> int:
        return self._log_mel.hop

    @property
    def before(self) -> int:
        """Samples that a frame hears before its centre, and the one that pre-emphasis takes from the next."""
        return len(self._log_mel.window) // 2 + 1

    def write(
        self,
        slots: torch.Tensor,
        first: torch.Tensor,
        counts: torch.Tensor,
        samples: torch.Tensor,
        ends: torch.Tensor,
    ) -> None:
        """Frames ``first`` to ``first + counts`` of the streams in ``slots``, each int64 ``[B]``.

        ``samples`` ``[B, n]`` begin ``before`` samples before the centre of ``first``; beyond ``ends``
        ``[B]`` of each row there is silence.
        """
        logs = self._log_mel.of_frames(samples, ends)  # [B, T, F]
        number = torch.arange(logs.shape[1], device=self.device)
        at = (first[:, None] + number) % self._frames
        at = torch.where(number < counts[:, None], at, self._frames)
        self._ring[slots[:, None], at] = logs

    def windows(
        self, slots: torch.Tensor, first: torch.Tensor, counts: torch.Tensor, width: int
    ) -> torch.Tensor:
        """Frames ``first`` to ``first + counts`` of each row, normalized: ``[B, F, width]``, zero beyond a
        row's own."""
        at = (first[:, None] + torch.arange(width, device=self.device)) % self._frames
        return normalized(self._ring[slots[:, None], at].transpose(1, 2), counts)
