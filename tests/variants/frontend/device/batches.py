"""Clips side by side, as a batch has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def padded(clips: Sequence[np.ndarray]) -> torch.Tensor:
    """``[B, n]``, zero beyond each clip."""
    rows = np.zeros((len(clips), max(map(len, clips))), np.float32)
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(rows)
