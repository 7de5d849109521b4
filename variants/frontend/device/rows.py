"""Recordings of unlike lengths side by side on a device, and how they get there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_GRANULE = 4096  # samples: rows are padded to it, so that few shapes are ever seen


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


class Upload:
    """Rows of host memory to a device, in one transfer for all rows of a type; counts the bytes.

    Host memory is pinned for a GPU. For one thread at a time: it is written again once the last transfer
    from it is through.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._staged = torch.zeros(0, dtype=torch.uint8)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __call__(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        """``rows`` of one type, zero-padded: ``[B, n]`` of that type on the device."""
        longest = max(map(len, rows))
        width = max(1, -(-longest // _GRANULE)) * _GRANULE
        staged = self._host(len(rows), width, rows[0].dtype)
        for target, row in zip(staged.numpy(), rows, strict=True):
            target[: len(row)] = row
            target[len(row) :] = 0
        self.bytes += staged.nbytes
        on_device = staged.to(self._device, non_blocking=True, copy=True)
        if self._copied is not None:
            self._copied.record()
        return on_device

    def _host(self, rows: int, width: int, kind: np.dtype[np.generic]) -> torch.Tensor:
        if self._copied is not None:
            self._copied.synchronize()  # the last transfer may still read it
        needed = rows * width * kind.itemsize
        if self._staged.numel() < needed:
            self._staged = torch.zeros(needed, dtype=torch.uint8, pin_memory=self._copied is not None)
        numbers = torch.int16 if kind == np.int16 else torch.float32
        return self._staged[:needed].view(numbers).view(rows, width)
