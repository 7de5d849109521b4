"""Channels become one as asked, resampled as they come; what cancels is said; limits name their option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr

from harness.audio.decode import decode, heard
from harness.audio.limits import Limits
from harness.audio.pcm import refuse_unusable
from harness.audio.target import MIXES, Target
from harness.errors import RequestError
from tests.harness.audio.recordings import RATE, Encoding, encode, noise, tone, wav

STEREO = Encoding("wav", "pcm_s16le", RATE, "stereo")
LOUD, FAINT = tone(1.0, peak=0.5), tone(1.0, hz=300.0, peak=0.05)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [("mean", (LOUD + FAINT) / 2), ("left", FAINT), ("right", LOUD), ("loudest", LOUD)],
)
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_channels_become_one_as_asked(codec: str, mix: str, expected: np.ndarray) -> None:
    encoding = STEREO if codec == "wav" else Encoding("flac", "flac", RATE, "stereo")
    audio = decode(encode(np.stack([FAINT, LOUD]), encoding), target=Target(mix))
    np.testing.assert_allclose(audio.samples, expected, atol=1e-4)
    assert audio.warnings == ()


@pytest.mark.parametrize("mix", MIXES)
def test_one_channel_is_itself_however_it_is_mixed(mix: str) -> None:
    np.testing.assert_allclose(decode(wav(LOUD), target=Target(mix)).samples, LOUD, atol=1e-4)


def test_channels_that_cancel_each_other_are_said() -> None:
    payload = encode(np.stack([LOUD, -LOUD]), STEREO)
    (warning,) = decode(payload).warnings
    assert "set frontend.mix=loudest, left or right" in warning
    heard = decode(payload, target=Target("loudest"))
    assert heard.warnings == ()
    np.testing.assert_allclose(np.abs(heard.samples), np.abs(LOUD), atol=1e-4)


@pytest.mark.parametrize("sound", [np.zeros((2, RATE), np.float32), np.stack([LOUD, np.zeros_like(LOUD)])])
def test_silence_and_a_silent_side_cancel_nothing(sound: np.ndarray) -> None:
    assert decode(encode(sound, STEREO)).warnings == ()


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_blocks_are_resampled_as_the_whole_would_be(rate: int) -> None:
    payload = encode(noise(3.217, rate), Encoding("flac", "flac", rate))
    whole = decode(payload).samples
    audio = decode(payload, target=Target(sample_rate=RATE))
    assert (audio.sample_rate, audio.resampled_ns > 0) == (RATE, True)
    np.testing.assert_array_equal(audio.samples, soxr.resample(whole, rate, RATE, quality="HQ"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_audio_s": 0.5}, r"lasts 1 s or more, above frontend\.max_audio_s=0\.5: split it"),
        ({"max_bytes": 1000}, r"has \d+ bytes, above frontend\.max_bytes=1000: compress it"),
        ({"max_channels": 1}, r"has 2 channels, above frontend\.max_channels=1: mix it down"),
        ({"min_sample_rate": 22050}, r"16000 samples a second, outside frontend\.min_sample_rate=22050"),
        ({"max_sample_rate": 8000}, r"to frontend\.max_sample_rate=8000: resample it"),
    ],
)
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_every_limit_holds_on_every_path_and_names_its_option(
    codec: str, limits: dict[str, Any], message: str
) -> None:
    encoding = STEREO if codec == "wav" else Encoding("flac", "flac", RATE, "stereo")
    payload = encode(np.stack([FAINT, LOUD]), encoding)
    with pytest.raises(RequestError, match=message):
        decode(payload, Limits(**limits))
    with pytest.raises(RequestError, match=message):
        heard(payload, Limits(**limits))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_a_sample_beyond_any_scale_is_refused(value: float) -> None:
    samples = LOUD.copy()
    samples[4000] = value
    with pytest.raises(RequestError, match=r"the stream's chunk holds .* at 1\.250 s"):
        refuse_unusable(samples, RATE, 1.0, "stream's chunk")
    with pytest.raises(RequestError, match=r"the recording holds .* at 0\.250 s"):
        decode(encode(samples, Encoding("wav", "pcm_f32le", RATE)))


def test_floats_that_hold_integers_are_heard() -> None:
    refuse_unusable(LOUD * np.float32(2.0**31), RATE)
