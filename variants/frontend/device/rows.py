"""Recordings of unlike lengths side by side on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """Mono samples at the model's rate: float32 ``[B, n]`` on a device, zero beyond each length."""

    samples: torch.Tensor
    lengths: np.ndarray  # int64 [B], on the host; 0 where a row is there to fill a shape
    on_device: torch.Tensor  # the lengths again

    @classmethod
    def of(cls, samples: torch.Tensor, lengths: Sequence[int]) -> Rows:
        """``samples`` ``[B, n]``, silenced beyond the ``lengths`` of their first rows."""
        all_lengths = np.zeros(len(samples), np.int64)
        all_lengths[: len(lengths)] = lengths
        return cls(samples, all_lengths, torch.from_numpy(all_lengths).to(samples.device)).masked(samples)

    def masked(self, samples: torch.Tensor) -> Rows:
        """The same rows with other ``samples`` ``[B, n]``, silenced beyond the lengths."""
        inside = torch.arange(samples.shape[1], device=samples.device) < self.on_device[:, None]
        return Rows(torch.where(inside, samples, 0.0), self.lengths, self.on_device)
