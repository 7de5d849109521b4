"""Any rate and channel count to mono at the front end's rate."""

from __future__ import annotations

import numpy as np
import soxr

from harness.protocols import Audio


def resample(audio: Audio, *, sample_rate: int, quality: str) -> Audio:
    """The mean of the channels at ``sample_rate``: float32 ``[n]``, aligned with the input in time."""
    mono = _downmix(audio.samples)
    if audio.sample_rate == sample_rate:
        return Audio(mono, sample_rate)
    return Audio(soxr.resample(mono, audio.sample_rate, sample_rate, quality=quality), sample_rate)


def _downmix(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 1:
        return samples
    # One channel is a view, not a copy.
    return samples.reshape(-1) if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
