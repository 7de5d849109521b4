"""Recordings for the tests: sounds as NumPy arrays, encoded in memory into real containers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import av
import numpy as np
import soxr

from harness.audio.limits import Limits
from harness.audio.mono import MonoWriter
from harness.audio.target import Target
from harness.corpus.speech import Voice, speak
from harness.protocols import Audio

RATE = 16000


@dataclass(frozen=True)
class Encoding:
    """A container with the codec that belongs in it, at a rate and channel count that it allows."""

    container: str
    codec: str
    rate: int
    layout: str = "mono"
    sample_format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.container}-{self.codec}-{self.rate}-{self.layout}"


VORBIS = Encoding("ogg", "vorbis", 44100, "stereo", options={"strict": "experimental"})


def resample(audio: Audio, *, sample_rate: int, quality: str = "HQ") -> Audio:
    """The mean of the channels at ``sample_rate``, as decoding makes it."""
    samples = np.atleast_2d(audio.samples)
    parts: list[np.ndarray] = []
    target = Target(sample_rate=sample_rate, quality=quality)
    writer = MonoWriter(Limits(), target, parts.append, 0, len(samples), audio.sample_rate)
    writer.append(samples)
    writer.finish()
    return Audio(np.concatenate(parts), sample_rate)


def in_time(_at_s: float) -> float:
    return 0.0


def encode(
    samples: np.ndarray, encoding: Encoding, late_s: Callable[[float], float] = in_time, film: bool = False
) -> bytes:
    """The bytes of a file with ``samples``, float32 ``[n]`` or ``[channels, n]`` at ``encoding.rate``.

    ``late_s`` is by how much a packet of a time is stamped late; ``film`` adds a track of pictures.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=encoding.container, options=encoding.muxing) as container:
        stream = container.add_stream(encoding.codec, rate=encoding.rate, options=encoding.options)
        if not isinstance(stream, av.AudioStream):
            raise TypeError(f"{encoding.codec} is no audio codec")
        stream.layout = encoding.layout
        if encoding.sample_format:
            stream.format = encoding.sample_format
        pictures = _pictures(container) if film else []
        for frame in [*_frames(samples, stream, encoding), None]:
            for packet in stream.encode(frame):
                _delay(packet, late_s)
                container.mux(packet)
        container.mux(pictures)
    return buffer.getvalue()


def _delay(packet: av.Packet, late_s: Callable[[float], float]) -> None:
    if packet.pts is not None and packet.dts is not None and packet.time_base is not None:
        ticks = round(late_s(float(packet.pts * packet.time_base)) / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks


def _pictures(container: av.container.OutputContainer) -> list[av.Packet]:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    frames = [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)) for _ in range(5)]
    return [packet for frame in [*frames, None] for packet in stream.encode(frame)]


def _frames(samples: np.ndarray, stream: av.AudioStream, encoding: Encoding) -> list[av.AudioFrame]:
    channels = av.AudioLayout(encoding.layout).nb_channels
    planes = np.broadcast_to(samples, (channels, samples.shape[-1])).astype(np.float32)
    # Interleaved, since PyAV cannot make a frame of eight planes.
    whole = av.AudioFrame.from_ndarray(planes.T.reshape(1, -1), format="flt", layout=encoding.layout)
    whole.sample_rate, whole.pts = encoding.rate, 0
    to_codec = av.AudioResampler(
        format=stream.format.name,
        layout=encoding.layout,
        rate=encoding.rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    return [*to_codec.resample(whole), *to_codec.resample(None)]


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """Mono 16-bit WAV."""
    return encode(samples, Encoding("wav", "pcm_s16le", rate))


def tone(seconds: float, rate: int = RATE, hz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def noise(seconds: float, rate: int = RATE, peak: float = 0.1, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (peak * generator.standard_normal(round(seconds * rate))).astype(np.float32)


def click_at(second: float, seconds: float, rate: int) -> np.ndarray:
    """Silence with one smooth pulse of 5 ms, whose centre any codec keeps in place."""
    samples = np.zeros(round(seconds * rate), np.float32)
    width = round(0.005 * rate)
    start = round(second * rate) - width // 2
    samples[start : start + width] = 0.5 * np.hanning(width)
    return samples


@cache
def speech() -> np.ndarray:
    """espeak-ng saying two sentences, 16 kHz: about 5 s, in the quiet of a synthesizer."""
    spoken = speak(
        "The quick brown fox jumps over the lazy dog. It was the best of times, my friend.", Voice("en")
    )
    return np.asarray(soxr.resample(spoken.samples, spoken.sample_rate, RATE))
