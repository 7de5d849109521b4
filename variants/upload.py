"""From the host's memory to a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_GRANULE = 8000  # samples: rows are padded to it, so that few shapes are ever seen


def round_up(samples: int) -> int:
    """The width of rows of so many samples."""
    return max(1, -(-samples // _GRANULE)) * _GRANULE


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
        staged = self._host(len(rows), round_up(max(map(len, rows))), rows[0].dtype)
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
        numbers = torch.int16 if kind == np.int16 else torch.float32
        needed = rows * width * numbers.itemsize
        if self._staged.numel() < needed:
            self._staged = torch.zeros(needed, dtype=torch.uint8, pin_memory=self._copied is not None)
        return self._staged[:needed].view(numbers).view(rows, width)
