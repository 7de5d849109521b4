"""Resampling: mono at the target rate, in place in time, nothing of what lies above Nyquist."""

from __future__ import annotations

import numpy as np
import pytest

from harness.protocols import Audio
from tests.harness.audio.recordings import RATE, click_at, resample, tone


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    audio = resample(Audio(samples, rate), sample_rate=RATE, quality="HQ")
    assert audio.sample_rate == RATE
    return audio.samples


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_a_tone_stays_that_tone(rate: int) -> None:
    resampled = to_16k(tone(1.0, rate), rate)
    assert resampled.shape == (RATE,)
    assert resampled.dtype == np.float32
    inner = slice(800, -800)
    np.testing.assert_allclose(resampled[inner], tone(1.0)[inner], atol=1e-3)


def test_events_stay_in_place() -> None:
    assert int(np.argmax(to_16k(click_at(0.5, 1.0, 44100), 44100))) / RATE == pytest.approx(0.5, abs=0.0002)


def test_channels_are_averaged() -> None:
    left = tone(0.5)
    np.testing.assert_allclose(to_16k(np.stack([left, -left]), RATE), 0.0, atol=1e-7)
    np.testing.assert_allclose(to_16k(np.stack([left, left]), RATE), left, atol=1e-7)


def test_what_the_target_rate_cannot_hold_is_gone() -> None:
    assert np.abs(to_16k(tone(1.0, 48000, hz=12000.0), 48000)[800:-800]).max() < 1e-3


def test_a_single_sample_is_no_error() -> None:
    assert to_16k(np.zeros((2, 1), np.float32), 48000).ndim == 1
