"""Polyphase resampling of a batch to one rate, as matrix products.

A windowed sinc (Kaiser; Oppenheim and Schafer, Discrete-Time Signal Processing, 7.6) with zero phase. Input
and output rates are ``M:L`` in lowest terms, so the same ``L`` filters come round every ``M`` input samples:
a stretch of ``M`` samples and their neighbours, times one matrix, is ``L`` output samples. That is a strided
convolution with ``L`` channels, written as the product that it is, because cuDNN's convolutions round to
TF32 on a GPU, at about -60 dB.

Pass band: to 0.913 of the lower Nyquist frequency, as soxr's HQ, ripple under 0.001 dB. Stop band: from the
lower Nyquist frequency, 100 dB down. soxr allows itself 0.01 dB of roll-off in its pass band, and takes it
near the upper edge for 44.1 kHz and its fractions: there the two differ by that, about -64 dB.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd

import numpy as np
import torch

ATTENUATION_DB = 100.0
PASS_BAND = 0.913
"""Of the lower Nyquist frequency."""

_OUTPUTS = 64  # of one product, at least: few wide products are faster than many narrow ones
_MOST_OUTPUTS = 160  # more would multiply mostly by zeros


def resampled_length(samples: int, rate: int, to_rate: int) -> int:
    """Output samples of so many input samples: soxr's rule, half a sample rounded up."""
    return (2 * samples * to_rate + rate) // (2 * rate)


class Resampler:
    """From ``rate`` to ``to_rate``, both in Hz, on one device."""

    def __init__(self, rate: int, to_rate: int, device: torch.device) -> None:
        self._rate, self._to_rate = rate, to_rate
        self._design = _design(rate, to_rate)
        self._matrices = torch.from_numpy(_matrices(self._design)).to(device)  # [K, span, P]

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Float32 ``[B, n]``, zero beyond each row's length, to ``[B, resampled_length(n)]``."""
        if self._rate == self._to_rate:
            return samples
        design = self._design
        count = resampled_length(samples.shape[1], self._rate, self._to_rate)
        periods = max(1, ceil(count / (design.parts * design.outputs)))
        starts = design.starts
        before = -starts[0]
        after = max(0, (periods - 1) * design.step + starts[-1] + design.span - samples.shape[1])
        padded = torch.nn.functional.pad(samples, (before, after))
        pieces = [
            padded[:, before + start :].unfold(1, design.span, design.step)[:, :periods] @ matrix
            for start, matrix in zip(starts, self._matrices, strict=True)
        ]  # each [B, periods, P]
        return torch.stack(pieces, dim=2).flatten(1)[:, :count]


@dataclass(frozen=True, slots=True)
class _Design:
    """Every ``step`` input samples, ``parts`` products of ``outputs`` output samples each."""

    ratio: float
    """Input samples per output sample."""
    reach: int
    """Input samples on either side that an output sample hears."""
    cutoff: float
    """Of the input's sampling rate."""
    step: int
    parts: int
    outputs: int

    @property
    def starts(self) -> list[int]:
        """Of each part, the first input sample that it hears, counted from the period's first."""
        return [int(part * self.outputs * self.ratio) - self.reach + 1 for part in range(self.parts)]

    @property
    def span(self) -> int:
        """Input samples that a part hears."""
        return int(self.outputs * self.ratio) + 2 * self.reach + 1


def _design(rate: int, to_rate: int) -> _Design:
    shared = gcd(rate, to_rate)
    up, down = to_rate // shared, rate // shared
    nyquist = min(rate, to_rate) / 2.0 / rate
    transition = (1.0 - PASS_BAND) * nyquist
    taps = (ATTENUATION_DB - 7.95) / (14.36 * transition)  # Kaiser's estimate
    repeated = ceil(_OUTPUTS / up)  # small ratios: several periods at once
    parts = ceil(up * repeated / _MOST_OUTPUTS)
    while up * repeated % parts:
        parts += 1
    return _Design(
        ratio=rate / to_rate,
        reach=ceil(taps / 2.0),
        cutoff=nyquist - transition / 2.0,
        step=down * repeated,
        parts=parts,
        outputs=up * repeated // parts,
    )


def _matrices(design: _Design) -> np.ndarray:
    """Each part's filters as columns: float32 ``[parts, span, outputs]``."""
    outputs = np.arange(design.parts * design.outputs).reshape(design.parts, 1, design.outputs)
    inputs = np.array(design.starts)[:, None, None] + np.arange(design.span)[None, :, None]
    apart = outputs * design.ratio - inputs  # in input samples
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    inside = np.square(apart / design.reach) <= 1.0
    within = apart[inside]
    bessel = torch.special.i0(torch.from_numpy(beta * np.sqrt(1.0 - np.square(within / design.reach))))
    filters = np.zeros(apart.shape)
    filters[inside] = np.sinc(2.0 * design.cutoff * within) * bessel.numpy()
    # Each phase has a gain of exactly 1 at 0 Hz: a constant stays one.
    matrices: np.ndarray = (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrices
