"""Denoising: steady noise goes, speech stays where it was."""

from __future__ import annotations

import numpy as np
import pytest

from harness.protocols import Audio
from tests.harness.audio.recordings import RATE, noise, speech
from variants.frontend.denoise import denoise


def cleaned(samples: np.ndarray, level: int = 2) -> np.ndarray:
    return denoise(Audio(samples, RATE), level=level).samples


@pytest.mark.parametrize("count", [0, 1, 95, 96, 160, 161, 16000, 16001])
def test_the_length_is_kept(count: int) -> None:
    result = cleaned(noise(1.1)[:count])
    assert result.shape == (count,)
    assert result.dtype == np.float32


def test_steady_noise_is_reduced_by_several_decibels() -> None:
    hiss = noise(4.0, peak=0.02)
    assert np.std(cleaned(hiss)[2 * RATE :]) < 0.5 * np.std(hiss)


def test_a_higher_level_reduces_more() -> None:
    hiss = noise(4.0, peak=0.02)
    tail = [float(np.std(cleaned(hiss, level)[2 * RATE :])) for level in (1, 2, 3)]
    assert tail == sorted(tail, reverse=True)


@pytest.mark.parametrize("level", range(5))
def test_speech_keeps_its_place(level: int) -> None:
    """The cross-correlation with the input peaks at no delay, give or take a quarter millisecond."""
    clean = speech()
    result = cleaned(clean, level)
    middle = clean[4000:-4000]
    shifts = range(-200, 201)
    best = max(shifts, key=lambda shift: float(middle @ result[4000 + shift : 4000 + shift + len(middle)]))
    assert abs(best) <= 4


def test_the_end_of_the_clip_is_not_lost() -> None:
    clean = speech()[: 2 * RATE]
    assert np.std(cleaned(clean)[-800:]) > 0.3 * np.std(clean[-800:])


def test_calls_are_independent() -> None:
    first = cleaned(speech())
    cleaned(noise(2.0))
    np.testing.assert_array_equal(cleaned(speech()), first)
