"""The 16-bit samples that WebRTC's parts take."""

from __future__ import annotations

import numpy as np


def to_pcm16(samples: np.ndarray) -> bytes:
    """float32 ``[n]`` in [-1, 1] to little-endian 16-bit, clipped: 2 bytes a sample."""
    scaled = np.clip(samples * np.float32(32768.0), -32768.0, 32767.0)
    return scaled.astype("<i2").tobytes()


def from_pcm16(pcm: bytes) -> np.ndarray:
    """Little-endian 16-bit to float32 ``[n]`` in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(2.0**-15)
