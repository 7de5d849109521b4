"""Recordings of unlike lengths side by side on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """Mono samples at the model's rate: float32 ``[B, n]`` on a device, zero beyond each length."""

    samples: torch.Tensor
    lengths: np.ndarray  # int64 [B], on the host

    def masked(self, samples: torch.Tensor) -> Rows:
        """The same rows with other ``samples`` ``[B, n]``, silenced beyond the lengths."""
        lengths = torch.from_numpy(self.lengths).to(samples.device, non_blocking=True)
        inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
        return Rows(torch.where(inside, samples, 0.0), self.lengths)
