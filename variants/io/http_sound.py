"""Live sound as OpenAI's realtime events carry it, on its way to samples at the model's rate."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

Samples = npt.NDArray[np.float32]
_RATES = (8000, 192_000)


class SoundError(ValueError):
    """Sound, or a description of it, that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Format:
    kind: str = "audio/pcm"
    """``audio/pcm`` (16 bits, little-endian), ``audio/pcmu`` or ``audio/pcma`` (G.711)."""
    rate: int = 24_000

    @classmethod
    def of(cls, said: Any) -> Format:
        """From ``{"type": "audio/pcm", "rate": 24000}``, or the earlier names ``pcm16``, ``g711_ulaw`` and
        ``g711_alaw``. Raises ``SoundError``."""
        if isinstance(said, str) and said in _EARLIER:
            return _EARLIER[said]
        if not isinstance(said, Mapping) or said.get("type") not in _DECODE:
            raise SoundError(f"the format {said!r:.80} is none of {', '.join(_DECODE)}")
        kind = said["type"]
        rate = said.get("rate", 24_000 if kind == "audio/pcm" else 8000)
        if not isinstance(rate, int) or not _RATES[0] <= rate <= _RATES[1]:
            raise SoundError(f"the rate {rate!r:.20} is not one from {_RATES[0]} to {_RATES[1]} Hz")
        return cls(kind, rate)


class Ear:
    """One stretch of sound, chunk by chunk, at ``rate`` Hz."""

    def __init__(self, form: Format, rate: int) -> None:
        self._decode = _DECODE[form.kind]
        self._resampler = None
        if form.rate != rate:
            self._resampler = soxr.ResampleStream(form.rate, rate, 1, dtype="float32")

    def hear(self, audio: Any) -> Samples:
        """Samples of the base64 text ``audio``; a resampler gives some later. Raises ``SoundError``."""
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise SoundError(f"audio is not base64 ({error})") from None
        return self._at_rate(self._decode(data), last=False)

    def end(self) -> Samples:
        """What the resampler still held."""
        return self._at_rate(np.empty(0, np.float32), last=True)

    def _at_rate(self, samples: Samples, last: bool) -> Samples:
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(samples, last=last), np.float32)


def _pcm(data: bytes) -> Samples:
    if len(data) % 2:
        raise SoundError(f"{len(data)} bytes are not a whole number of 16-bit samples")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def _mu_law() -> Samples:
    """Every code's value (ITU-T G.711, table 2b), as a share of full scale."""
    codes = ~np.arange(256, dtype=np.uint8)
    magnitude = (((codes & 15).astype(np.int32) << 3) + 132 << ((codes >> 4) & 7)) - 132
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32) / np.float32(32768)


def _a_law() -> Samples:
    """Every code's value (ITU-T G.711, table 1b)."""
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = ((codes >> 4) & 7).astype(np.int32)
    mantissa = ((codes & 15).astype(np.int32) << 4) + 8
    magnitude = np.where(exponent > 0, (mantissa + 256) << np.maximum(exponent - 1, 0), mantissa)
    return np.where(codes & 128, magnitude, -magnitude).astype(np.float32) / np.float32(32768)


def _by(table: Samples) -> Callable[[bytes], Samples]:
    return lambda data: table[np.frombuffer(data, np.uint8)]


_DECODE: Mapping[str, Callable[[bytes], Samples]] = {
    "audio/pcm": _pcm,
    "audio/pcmu": _by(_mu_law()),
    "audio/pcma": _by(_a_law()),
}
_EARLIER = {
    "pcm16": Format("audio/pcm", 24_000),
    "g711_ulaw": Format("audio/pcmu", 8000),
    "g711_alaw": Format("audio/pcma", 8000),
}
