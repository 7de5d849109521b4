"""Audio for warming up a service that has not yet seen a request."""

from __future__ import annotations

import io
import wave

import numpy as np

WARM_UP_RATE = 16_000


def tone_wav(length_s: float) -> bytes:
    """A mono 16-bit WAV of a 220 Hz tone, gated four times a second as syllables are."""
    t = np.arange(max(1, round(length_s * WARM_UP_RATE))) / WARM_UP_RATE
    gate = np.sin(2 * np.pi * 4 * t) > -0.5
    samples = (8000 * np.sin(2 * np.pi * 220 * t) * gate).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(WARM_UP_RATE)
        out.writeframes(samples.tobytes())
    return buffer.getvalue()
