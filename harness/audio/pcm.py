"""Samples as numbers: every integer and floating-point width to float32, 16 bits for WebRTC's parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import RequestError

_SCALES = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31, "i8": 2.0**-63}

#: Samples are nominally in [-1, 1]. Floats that hold integers of up to 32 bits are still heard; beyond
#: that, a spectrum's float32 overflows and the text is noise.
LARGEST = 2.0**31


Channels = np.ndarray | Sequence[np.ndarray]
"""``[channels, n]``, together or each channel where it lies."""


def joined(parts: Sequence[Channels], channels: int) -> np.ndarray:
    """Blocks of one integer or floating type as one float32 block ``[channels, n]``, full scale being 1."""
    if not parts:
        return np.empty((channels, 0), np.float32)
    kind = parts[0][0].dtype.str[1:]
    if len(parts) == 1 and isinstance(parts[0], np.ndarray):
        return _scaled(parts[0], kind)
    block = np.empty((channels, sum(len(part[0]) for part in parts)), np.float32)
    for channel, row in enumerate(block):
        np.concatenate([part[channel] for part in parts], out=row, casting="same_kind")
    return _scaled(block, kind)


def _scaled(block: np.ndarray, kind: str) -> np.ndarray:
    """Powers of two: no rounding after that of the width."""
    if kind in _SCALES:
        block = np.multiply(block, np.float32(_SCALES[kind]), dtype=np.float32, casting="same_kind")
    if kind == "u1":
        block -= np.float32(1.0)
    return np.asarray(block, np.float32)


def refuse_unusable(
    samples: np.ndarray, sample_rate: int, start_s: float = 0.0, what: str = "recording"
) -> None:
    """Raise ``RequestError`` where float32 ``[n]`` holds NaN, infinity or a value beyond any scale.

    ``start_s`` is where ``samples`` begin in the ``what`` that the message names.
    """
    # A NaN anywhere makes an extreme NaN, and no comparison with it holds.
    if samples.size == 0 or (samples.min() >= -LARGEST and samples.max() <= LARGEST):
        return
    index = int(np.argmin(np.abs(samples) <= LARGEST))
    value = samples[index]
    fault = f"a sample of {value:.3g}, far beyond full scale," if np.isfinite(value) else "NaN or infinity"
    raise RequestError(
        f"the {what} holds {fault} at {start_s + index / sample_rate:.3f} s: send samples within -1 to 1"
    )


def to_pcm16(samples: np.ndarray) -> bytes:
    """float32 ``[n]`` in [-1, 1] to little-endian 16-bit, clipped: 2 bytes a sample."""
    scaled = np.clip(samples * np.float32(32768.0), -32768.0, 32767.0)
    return scaled.astype("<i2").tobytes()


def from_pcm16(pcm: bytes) -> np.ndarray:
    """Little-endian 16-bit to float32 ``[n]`` in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(2.0**-15)
