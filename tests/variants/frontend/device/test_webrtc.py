"""WebRTC's suppressor in batches: the library's output, as far as that is one."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from harness.protocols import Audio
from tests.harness.audio.recordings import RATE, noise, speech
from tests.variants.frontend.device.batches import padded
from variants.frontend.denoise import denoise
from variants.frontend.device.webrtc import BatchWebrtc


def library(samples: np.ndarray, level: int) -> np.ndarray:
    return denoise(Audio(samples, RATE), level=level).samples


def ours(clips: list[np.ndarray], level: int) -> list[np.ndarray]:
    found = BatchWebrtc(level, torch.device("cpu"))(padded(clips)).numpy()
    return [row[: len(clip)] for row, clip in zip(found, clips, strict=True)]


@cache
def clips() -> list[np.ndarray]:
    """Past two looks at the features (5 s each): clean, with digital silence before and within; in noise;
    and short ones."""
    silence, spoken = np.zeros(RATE, np.float32), np.tile(speech(), 2)
    hiss = noise(len(spoken) / RATE, peak=0.05, seed=3)[: len(spoken)]
    return [np.concatenate([silence, spoken, silence]), spoken + hiss, speech()[:1000], noise(0.3)[:1]]


def below_db(wrong: np.ndarray, right: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wrong - right).sum() / np.square(right).sum()))


def one_step_off(samples: np.ndarray) -> np.ndarray:
    """Sixteen samples a second, each off by one step of 16 bits."""
    changed = samples.copy()
    changed[::1000] += 1.2 / 32768
    return changed


@pytest.mark.parametrize("level", [1, 2, 4])
def test_the_output_is_the_library_s_but_for_16_bits_until_a_threshold_falls_the_other_way(
    level: int,
) -> None:
    """Two seconds without a flip, in every clip, whatever lies beside it; then no farther off than
    the library from itself for an input that differs by its rounding: about -55 dB."""
    for found, clip in zip(ours(clips(), level), clips(), strict=True):
        expected = library(clip, level)
        np.testing.assert_allclose(found[: 3 * RATE // 2], expected[: 3 * RATE // 2], atol=8 / 32768)
        if len(clip) > RATE:
            assert below_db(found, expected) < max(
                -60.0, below_db(library(one_step_off(clip), level), expected) + 6
            )


def test_without_suppression_the_high_pass_filter_is_left() -> None:
    for found, clip in zip(ours(clips(), 0), clips(), strict=True):
        np.testing.assert_allclose(found, library(clip, 0), atol=1.01 / 32768)


def test_a_batch_of_silence_is_silence() -> None:
    assert not ours([np.zeros(RATE, np.float32)] * 2, 2)[0].any()
