"""Features that a prepared shape is held to the eager encoder with: speech where the model hears speech."""

from __future__ import annotations

import numpy as np

from harness.protocols import FeatureBatch
from variants.encoder.parity import probe
from variants.models.synthetic import calibration_features


def speech_probe(rows: int, shortest: int, longest: int, bins: int, seed: int = 0) -> FeatureBatch:
    """Nineteen seconds of synthetic speech, repeated to ``longest`` and begun elsewhere in each row.

    A model with other feature bins gets ``probe``'s moving noise. Lengths are those of ``probe``.
    """
    noise = probe(rows, shortest, longest, bins, seed)
    clips = calibration_features()  # [clips, F, T]
    if clips.shape[1] != bins:
        return noise
    track = np.concatenate(list(clips), axis=1)  # [F, clips * T]
    starts = np.random.default_rng(seed).integers(track.shape[1], size=rows)
    frames = (starts[:, None] + np.arange(longest)) % track.shape[1]
    values = np.ascontiguousarray(track[:, frames].transpose(1, 0, 2))  # [rows, F, longest]
    for row, length in enumerate(noise.lengths):
        values[row, :, length:] = 0.0
    return FeatureBatch(values, noise.lengths)
