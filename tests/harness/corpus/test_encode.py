"""Containers hold what was put in them, and the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import av
import numpy as np
import pytest

from harness.corpus.encode import CONTAINERS, encode, legal_rate
from harness.errors import UsageError
from harness.paths import conf_dir
from harness.protocols import Audio

LOSSLESS = ("wav", "flac")
CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "mp3", "m4a": "aac", "webm": "opus", "ogg": "opus"}
_PRINT_DIGESTS = """
import hashlib
from tests.harness.corpus.test_encode import tone
from harness.corpus.encode import CONTAINERS, encode
for container in CONTAINERS:
    print(hashlib.sha256(encode(tone(), container, 16000, 1, None)).hexdigest())
"""


def tone(seconds: float = 1.3, channels: int = 1, rate: int = 22050) -> Audio:
    """A 440 Hz tone on the left and 880 Hz on the right."""
    time_s = np.arange(round(seconds * rate)) / rate
    planes = [0.5 * np.sin(2 * np.pi * 440 * (c + 1) * time_s) for c in range(channels)]
    return Audio(np.asarray(planes if channels > 1 else planes[0], np.float32), rate)


def decode(payload: bytes) -> tuple[str, Audio]:
    with av.open(io.BytesIO(payload)) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout)
        planes = [
            part.to_ndarray() for frame in [*file.decode(stream), None] for part in resampler.resample(frame)
        ]
        return stream.codec_context.name, Audio(np.concatenate(planes, 1), stream.codec_context.sample_rate)


def dominant_hz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("container", CONTAINERS)
def test_round_trip_keeps_length_channels_and_sound(container: str, rate: int, channels: int) -> None:
    source = tone(channels=channels)
    codec, decoded = decode(encode(source, container, rate, channels, None))
    assert CODECS[container] in codec
    assert decoded.samples.shape[0] == channels
    slack_s = 1024 / decoded.sample_rate if container == "m4a" else 0.002  # AAC ends on a whole packet
    assert decoded.duration_s == pytest.approx(source.duration_s, abs=slack_s)
    for channel in range(channels):
        pitch = dominant_hz(decoded.samples[channel], decoded.sample_rate)
        assert pitch == pytest.approx(440 * (channel + 1), rel=0.01)


@pytest.mark.parametrize("container", LOSSLESS)
def test_lossless_containers_lose_only_quantization(container: str) -> None:
    source = tone()
    _, decoded = decode(encode(source, container, 22050, 1, None))
    assert np.abs(decoded.samples[0] - source.samples).max() < 1e-4


def test_opus_uses_a_legal_rate_that_keeps_the_band() -> None:
    assert legal_rate("webm", 44100) == 48000
    assert legal_rate("ogg", 11025) == 12000
    assert legal_rate("mp3", 96000) == 48000
    assert legal_rate("wav", 44100) == 44100


def test_same_arguments_give_same_bytes_in_any_process() -> None:
    here = [hashlib.sha256(encode(tone(), name, 16000, 1, None)).hexdigest() for name in CONTAINERS]
    command = [sys.executable, "-c", _PRINT_DIGESTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=conf_dir().parent)
    assert result.stdout.split() == here


@pytest.mark.parametrize("container", ["mp3", "m4a", "webm", "ogg"])
def test_bit_rate_is_obeyed(container: str) -> None:
    rng = np.random.default_rng(0)
    noise = Audio(rng.standard_normal(5 * 48000, np.float32) * 0.1, 48000)
    low, high = (len(encode(noise, container, 48000, 1, rate)) for rate in (24_000, 96_000))
    assert high > 2 * low


def test_channels_are_copied_or_averaged() -> None:
    _, doubled = decode(encode(tone(), "wav", 22050, 2, None))
    assert np.array_equal(doubled.samples[0], doubled.samples[1])
    opposite = Audio(np.stack([tone().samples, -tone().samples]), 22050)
    _, averaged = decode(encode(opposite, "wav", 22050, 1, None))
    assert np.abs(averaged.samples).max() == 0.0


def test_overload_is_clipped_not_wrapped() -> None:
    loud = Audio(np.full(1000, 1.7, np.float32), 16000)
    _, decoded = decode(encode(loud, "wav", 16000, 1, None))
    assert decoded.samples.min() > 0.99


def test_unknown_container_and_channel_count_are_named() -> None:
    with pytest.raises(UsageError, match="'aiff'"):
        encode(tone(), "aiff", 16000, 1, None)
    with pytest.raises(UsageError, match="channels=3"):
        encode(tone(), "wav", 16000, 3, None)
