"""Audio into container bytes, deterministically: no dates, no random identifiers, one thread."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import cast

import av
import numpy as np
import soxr

from harness.errors import UsageError
from harness.protocols import Audio

_CHUNK_S = 1.0


@dataclass(frozen=True, slots=True)
class Container:
    """A file format and the codec that this project puts in it.

    ``rates`` are the codec's legal sample rates, ascending; empty where it takes any.
    ``sample_format`` is FFmpeg's name; a trailing ``p`` means one plane per channel.
    """

    muxer: str
    codec: str
    sample_format: str
    rates: tuple[int, ...] = ()
    bit_rate: int | None = None

    @property
    def planar(self) -> bool:
        return self.sample_format.endswith("p")

    @property
    def integer(self) -> bool:
        return self.sample_format.startswith("s16")


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)

#: Ogg carries Opus: FFmpeg's own Vorbis encoder is experimental and stereo only.
CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        "wav": Container("wav", "pcm_s16le", "s16"),
        "flac": Container("flac", "flac", "s16"),
        "mp3": Container("mp3", "libmp3lame", "fltp", _MP3_RATES, 64_000),
        "m4a": Container("ipod", "aac", "fltp", _AAC_RATES, 64_000),
        "webm": Container("webm", "libopus", "flt", _OPUS_RATES, 32_000),
        "ogg": Container("ogg", "libopus", "flt", _OPUS_RATES, 32_000),
    }
)


def legal_rate(container: str, sample_rate: int) -> int:
    """The lowest rate of the container's codec that keeps ``sample_rate``'s band, else its highest."""
    rates = _container(container).rates
    if not rates:
        return sample_rate
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def encode(audio: Audio, container: str, sample_rate: int, channels: int, bit_rate: int | None) -> bytes:
    """The bytes of ``audio`` in ``container``, resampled to ``legal_rate(container, sample_rate)``.

    One channel becomes several by copying, several become one by averaging. ``bit_rate`` is in bits
    a second; None takes the container's default, and wav and flac ignore it. Equal arguments give
    equal bytes. Raises ``UsageError`` for an unknown container or a channel count it cannot make.
    """
    target = _container(container)
    rate = legal_rate(container, sample_rate)
    samples = _resample(_with_channels(audio.samples, channels), audio.sample_rate, rate)
    return _mux(samples, target, rate, bit_rate)


def _container(name: str) -> Container:
    if name not in CONTAINERS:
        raise UsageError(f"unknown container {name!r}; containers are {', '.join(CONTAINERS)}")
    return CONTAINERS[name]


def _with_channels(samples: np.ndarray, channels: int) -> np.ndarray:
    """``[n]`` or ``[c, n]`` to ``[channels, n]``."""
    if channels not in (1, 2):
        raise UsageError(f"channels={channels}: recordings have 1 or 2 channels")
    planes = np.atleast_2d(samples)
    if len(planes) == channels:
        return planes
    mono = planes.mean(axis=0, dtype=np.float32, keepdims=True)
    return np.repeat(mono, channels, axis=0)


def _resample(planes: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    if from_rate == to_rate or planes.shape[1] == 0:
        return planes
    return np.stack([soxr.resample(plane, from_rate, to_rate, quality="HQ") for plane in planes])


def _quantize(planes: np.ndarray, target: Container) -> np.ndarray:
    clipped = np.clip(planes, -1.0, 1.0)
    if target.integer:
        return np.asarray(np.round(clipped * 32767.0), np.int16)
    return np.asarray(clipped, np.float32)


def _mux(planes: np.ndarray, target: Container, rate: int, bit_rate: int | None) -> bytes:
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format=target.muxer, options=options) as output:
        stream = cast(av.AudioStream, output.add_stream(target.codec, rate=rate))
        context = stream.codec_context
        context.flags |= av.codec.context.Flags.bitexact
        context.thread_count = 1
        context.format = av.AudioFormat(target.sample_format)
        context.layout = av.AudioLayout(_layout(len(planes)))
        if target.bit_rate is not None:
            context.bit_rate = bit_rate or target.bit_rate
        for frame in _frames(planes, target, rate):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _frames(planes: np.ndarray, target: Container, rate: int) -> Iterator[av.AudioFrame]:
    chunk = round(_CHUNK_S * rate)
    for start in range(0, planes.shape[1], chunk):
        part = _quantize(planes[:, start : start + chunk], target)
        data = part if target.planar else part.T.reshape(1, -1)  # packed: samples of all channels in turn
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(data), format=target.sample_format, layout=_layout(len(planes))
        )
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start
        yield frame


def _layout(channels: int) -> str:
    return "mono" if channels == 1 else "stereo"
