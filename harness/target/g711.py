"""Telephone codes (ITU-T G.711): 16-bit samples to a byte each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BIAS = 132
_CLIP = 32_635


def mu_law(samples: npt.NDArray[np.int16]) -> bytes:
    """Table 2a: sign, three bits of exponent, four of mantissa, all inverted."""
    values = samples.astype(np.int32)
    magnitude = np.minimum(np.abs(values), _CLIP) + _BIAS
    exponent = _exponent(magnitude >> 7)
    mantissa = (magnitude >> (exponent + 3)) & 15
    sign = np.where(values < 0, 128, 0)
    return np.asarray(~(sign | (exponent << 4) | mantissa) & 255, np.uint8).tobytes()


def a_law(samples: npt.NDArray[np.int16]) -> bytes:
    """Table 1a: the same without a bias, every second bit inverted."""
    values = samples.astype(np.int32)
    magnitude = np.minimum(np.where(values < 0, ~values, values), 32_767) >> 4  # 11 bits
    exponent = np.where(magnitude > 15, _exponent(magnitude >> 4) + 1, 0)
    mantissa = np.where(exponent > 1, magnitude >> np.maximum(exponent - 1, 0), magnitude) & 15
    sign = np.where(values < 0, 0, 128)
    return np.asarray((sign | (exponent << 4) | mantissa) ^ 0x55, np.uint8).tobytes()


def _exponent(leading: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The place of the highest bit, 0 to 7."""
    return np.floor(np.log2(np.maximum(leading, 1))).astype(np.int32)
