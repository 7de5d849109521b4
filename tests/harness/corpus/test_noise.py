"""Noise comes at the level that was asked for, and from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from harness.corpus.noise import COLOURS, active_rms, gain, mix, reverberate
from harness.protocols import Audio

RATE = 16000


def burst(speech_s: float = 1.0, silence_s: float = 1.0) -> Audio:
    """A loud tone, then silence."""
    time_s = np.arange(round(speech_s * RATE)) / RATE
    tone = 0.2 * np.sin(2 * np.pi * 300 * time_s)
    return Audio(np.concatenate([tone, np.zeros(round(silence_s * RATE))]).astype(np.float32), RATE)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("silence_s", [0.0, 1.0, 9.0])
@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_snr_is_measured_over_active_speech(snr_db: float, silence_s: float) -> None:
    clean = burst(silence_s=silence_s)
    noise = mix(clean, snr_db, np.random.default_rng(1)).samples - clean.samples
    achieved = 20 * np.log10(rms(clean.samples[:RATE]) / rms(noise))
    assert achieved == pytest.approx(snr_db, abs=0.1)


def test_same_seed_same_noise_and_another_seed_another() -> None:
    first, second, other = (mix(burst(), 10.0, np.random.default_rng(seed)).samples for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_silence_stays_silent() -> None:
    silent = Audio(np.zeros(RATE, np.float32), RATE)
    assert not mix(silent, 10.0, np.random.default_rng(0)).samples.any()
    empty = Audio(np.zeros(0, np.float32), RATE)
    assert len(mix(empty, 10.0, np.random.default_rng(0)).samples) == 0


def _slope_db_per_octave(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    edges = 100.0 * 2.0 ** np.arange(7)
    bands = [power[(hertz >= low) & (hertz < 2 * low)].mean() for low in edges[:-1]]
    return float(np.polyfit(np.arange(len(bands)), 10 * np.log10(bands), 1)[0])


@pytest.mark.parametrize(("colour", "slope"), [("white", 0.0), ("pink", -3.0), ("brown", -6.0)])
def test_colours_have_their_slope(colour: str, slope: float) -> None:
    samples = COLOURS[colour](20 * RATE, RATE, np.random.default_rng(0))
    assert samples.dtype == np.float32
    assert _slope_db_per_octave(samples) == pytest.approx(slope, abs=0.4)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("samples", [0, 1, 777, RATE])
def test_colours_come_in_any_length(colour: str, samples: int) -> None:
    assert COLOURS[colour](samples, RATE, np.random.default_rng(0)).shape == (samples,)


def test_reverberation_keeps_length_and_level_and_decays_at_rt60() -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 1.0
    wet = reverberate(Audio(click, RATE), 0.5, np.random.default_rng(0)).samples
    assert wet.shape == click.shape
    early, late = rms(wet[800:1600]), rms(wet[800 + 4000 : 1600 + 4000])  # a quarter of a second apart
    assert 20 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)
    assert not wet[round(0.5 * RATE) + 1 :].any() or rms(wet[round(0.5 * RATE) + 1 :]) < 1e-6

    room = reverberate(burst(), 0.5, np.random.default_rng(0))
    assert active_rms(room) == pytest.approx(active_rms(burst()), rel=1e-3)


def test_gain_amplifies_and_never_clips() -> None:
    assert rms(gain(burst(), 6.0206).samples) == pytest.approx(2 * rms(burst().samples), rel=1e-3)
    assert np.abs(gain(burst(), 60.0).samples).max() == pytest.approx(0.99)
