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

import torch
from torch.nn import functional

_FFT, _HOP = 512, 128
_OVERLAP = _FFT // _HOP - 1
_WINDOWS_SUM = 1.5  # of the squared windows that overlap at a sample
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

    def __call__(self, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """``lengths`` are the clips', int64 ``[B]`` on the device."""
        # Every frame that overlaps a clip is transformed, however long the rows beside it are.
        count = -(-samples.shape[1] // _HOP) + _OVERLAP
        padded = functional.pad(samples, (_FFT - _HOP, count * _HOP - samples.shape[1]))
        spectrum = torch.fft.rfft(padded.unfold(1, _FFT, _HOP) * self._window)  # [B, T, bins]
        frames = (-(-lengths // _HOP) + _OVERLAP)[:, None, None]
        inside = torch.arange(spectrum.shape[1], device=samples.device)[:, None] < frames  # [B, T, 1]
        power = spectrum.real.square() + spectrum.imag.square()
        noise = _noise(power, frames, inside)
        over_db = 10.0 * torch.log10((_smoothed(power, inside) + _SMALL) / (noise + _SMALL))
        opened = _smoothed(torch.sigmoid((over_db - _OPENS_DB) / _SOFTNESS_DB), inside)
        gated = torch.fft.irfft(spectrum * (self._closed + (1.0 - self._closed) * opened), _FFT)
        return _overlapped(gated * self._window)[:, _FFT - _HOP :][:, : samples.shape[1]] / _WINDOWS_SUM


def _overlapped(frames: torch.Tensor) -> torch.Tensor:
    """``[B, T, 512]``, each 128 samples after the one before, to ``[B, (T + 3) * 128]``."""
    parts = frames.view(*frames.shape[:2], _OVERLAP + 1, _HOP)  # [B, T, 4, 128]
    moved = [functional.pad(parts[:, :, k], (0, 0, k, _OVERLAP - k)) for k in range(_OVERLAP + 1)]
    return torch.stack(moved).sum(0).flatten(1)


def _noise(power: torch.Tensor, frames: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The mean power of each bin's noise, ``[B, 1, bins]``, by the frames within each clip."""
    ordered = torch.where(inside, power, torch.inf).sort(dim=1).values
    place = (frames * _QUANTILE).long().expand(-1, 1, power.shape[2])
    return ordered.gather(1, place) / _QUANTILE_OF_MEAN


def _smoothed(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Means of ``[B, T, bins]`` over neighbours, of those that are there and within the clip."""
    there = inside.to(values.dtype).expand_as(values)
    total, count = (
        functional.avg_pool2d(each[:, None], (_FRAMES, _BINS), 1, (_FRAMES // 2, _BINS // 2))[:, 0]
        for each in (values * there, there)
    )
    return total / count.clamp(min=_SMALL)
