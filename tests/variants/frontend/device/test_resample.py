"""Resampling on the device: soxr's, and better where soxr rolls off."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch

from tests.harness.audio.recordings import RATE, noise, speech
from variants.frontend.device.resample import ATTENUATION_DB, PASS_BAND, Resampler, resampled_length

RATES = [8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000]
ODD = 44101
"""Prime to 16,000: sixteen thousand filters."""


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    return Resampler(rate, RATE, torch.device("cpu"))(torch.from_numpy(samples)[None])[0].numpy()


def sweep(rate: int, seconds: float, to_hz: float) -> np.ndarray:
    """From 50 Hz up, with soft ends: what it is at any rate is known without resampling."""
    t = np.arange(round(rate * seconds)) / rate
    phase = 2 * np.pi * (50 * t + (to_hz - 50) / seconds * np.square(t) / 2)
    ends = np.sin(np.pi * np.clip(np.minimum(t, seconds - t) / 0.2, 0, 0.5)) ** 2
    return (0.5 * ends * np.sin(phase)).astype(np.float32)


def below_db(wrong: np.ndarray, right: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wrong - right).sum() / np.square(right).sum()))


def in_band(samples: np.ndarray, rate: int) -> np.ndarray:
    """Without the transition band, in which two right filters differ."""
    spectrum = np.fft.rfft(samples)
    spectrum[round(len(spectrum) * min(1.0, rate / RATE) * PASS_BAND * 0.97) :] = 0
    return np.fft.irfft(spectrum, len(samples))


@pytest.mark.parametrize("rate", [*RATES, ODD])
def test_a_sweep_through_the_pass_band_is_the_sweep_at_the_other_rate(rate: int) -> None:
    to_hz = PASS_BAND * min(rate, RATE) / 2
    assert below_db(resampled(sweep(rate, 2.0, to_hz), rate), sweep(RATE, 2.0, to_hz)) < -90


@pytest.mark.parametrize("rate", [*RATES, ODD])
def test_sweeps_are_soxr_s_as_far_as_soxr_is_flat(rate: int) -> None:
    given = sweep(rate, 2.0, 0.6 * min(rate, RATE) / 2)
    assert below_db(resampled(given, rate), soxr.resample(given, rate, RATE, quality="HQ")) < -80


@pytest.mark.parametrize("rate", RATES)
def test_speech_is_soxr_s_in_the_pass_band(rate: int) -> None:
    given = soxr.resample(speech(), RATE, rate, quality="VHQ")
    expected = soxr.resample(given, rate, RATE, quality="HQ")
    assert below_db(in_band(resampled(given, rate), rate), in_band(expected, rate)) < -80


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_what_the_lower_rate_cannot_hold_is_gone(rate: int) -> None:
    t = np.arange(rate) / rate
    for hz in (RATE / 2 + 1, 9_000, 0.99 * rate / 2):
        level = resampled(np.sin(2 * np.pi * hz * t).astype(np.float32), rate)[1000:-1000].std()
        assert 20 * np.log10(level / np.sqrt(0.5)) < -ATTENUATION_DB + 3


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 32000, 44100, 48000, 96000, 384_000])
@pytest.mark.parametrize("samples", [1, 2, 3, 5, 100, 1001, 16_385])
def test_as_many_samples_as_soxr_makes(rate: int, samples: int) -> None:
    host = soxr.ResampleStream(rate, RATE, 1, quality="HQ")
    expected = len(host.resample_chunk(np.zeros(samples, np.float32), last=True))
    assert resampled_length(samples, rate, RATE) == expected
    assert len(resampled(np.zeros(samples, np.float32), rate)) == expected


def test_rows_of_any_length_are_what_each_is_alone() -> None:
    rows = [noise(1.3), noise(0.7, seed=1), speech()]
    batch = np.zeros((3, max(map(len, rows))), np.float32)
    for row, samples in zip(batch, rows, strict=True):
        row[: len(samples)] = samples
    found = Resampler(44100, RATE, torch.device("cpu"))(torch.from_numpy(batch)).numpy()
    for row, samples in zip(found, rows, strict=True):
        expected = resampled(samples, 44100)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-6)


def test_the_model_s_own_rate_is_left_alone() -> None:
    np.testing.assert_array_equal(resampled(speech(), RATE), speech())
