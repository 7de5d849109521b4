"""A spectral gate: a bin whose power is near the noise's is turned down, every frame at once.

After Boll (1979) and the gates of audio editors. The noise of each bin is what its power falls below in a
fifth of the clip's frames, divided by what that quantile is of the mean where there is noise alone (power is
then exponentially distributed). The gate opens around ``_OPENS_DB`` above it, softly, and is smoothed over
neighbouring frames and bins, because gates that open by themselves sound, and decode, as tones do. Nothing is
carried from frame to frame: where WebRTC's suppressor adapts to noise that changes, this sees the whole
clip's.
"""

from __future__ import annotations

from math import log

import numpy as np
import torch
from torch.nn import functional

_FFT, _HOP = 512, 128
_QUANTILE = 0.2
_QUANTILE_OF_MEAN = -log(1.0 - _QUANTILE)
_OPENS_DB, _SOFTNESS_DB = 6.0, 2.0
_FRAMES, _BINS = 7, 3  # over which power, and then the gate, is averaged: 56 ms and 94 Hz
_SMALL = 1e-12

DEPTHS_DB = (0.0, 6.0, 12.0, 18.0, 21.0)
"""What a closed gate takes away, of the levels 0 to 4: WebRTC's steps."""


class SpectralGate:
    """Float32 ``[B, n]`` at any rate (zero beyond each clip's length) to the same."""

    def __init__(self, level: int, device: torch.device) -> None:
        self._closed = 10.0 ** (-DEPTHS_DB[level] / 20.0)
        self._window = torch.hann_window(_FFT, device=device)

    def __call__(self, samples: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """``lengths`` are the clips', ``[B]``."""
        # Every frame that overlaps a clip is transformed, however long the rows beside it are.
        padded = functional.pad(samples, (0, _FFT))
        spectrum = torch.stft(
            padded, _FFT, _HOP, window=self._window, pad_mode="constant", return_complex=True
        )  # [B, bins, T]
        frames = torch.from_numpy((lengths + _FFT // 2) // _HOP + 1).to(samples.device)[:, None, None]
        inside = torch.arange(spectrum.shape[2], device=samples.device) < frames  # [B, 1, T]
        power = spectrum.real.square() + spectrum.imag.square()
        noise = _noise(power, frames, inside)
        over_db = 10.0 * torch.log10((_smoothed(power, inside) + _SMALL) / (noise + _SMALL))
        opened = _smoothed(torch.sigmoid((over_db - _OPENS_DB) / _SOFTNESS_DB), inside)
        gated = spectrum * (self._closed + (1.0 - self._closed) * opened)
        return torch.istft(gated, _FFT, _HOP, window=self._window, length=samples.shape[1])


def _noise(power: torch.Tensor, frames: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The mean power of each bin's noise, ``[B, bins, 1]``, by the frames within each clip."""
    ordered = torch.where(inside, power, torch.inf).sort(dim=2).values
    place = (frames * _QUANTILE).long().expand(-1, power.shape[1], 1)
    return ordered.gather(2, place) / _QUANTILE_OF_MEAN


def _smoothed(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Means over ``_BINS`` by ``_FRAMES`` neighbours, of those that are there and within the clip."""
    there = inside.to(values.dtype).expand_as(values)
    total, count = (
        functional.avg_pool2d(each[:, None], (_BINS, _FRAMES), 1, (_BINS // 2, _FRAMES // 2))[:, 0]
        for each in (values * there, there)
    )
    return total / count.clamp(min=_SMALL)
