"""The spectral gate: noise goes, speech stays, and a row is what it is alone."""

from __future__ import annotations

import numpy as np
import torch

from tests.harness.audio.recordings import RATE, noise, speech
from tests.variants.frontend.device.batches import padded
from variants.frontend.device.spectral_gate import DEPTHS_DB, SpectralGate


def gated(clips: list[np.ndarray], level: int = 2) -> list[np.ndarray]:
    gate = SpectralGate(level, torch.device("cpu"))
    found = gate(padded(clips), torch.tensor([*map(len, clips)])).numpy()
    return [row[: len(clip)] for row, clip in zip(found, clips, strict=True)]


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.square(samples).mean()))


def turn() -> np.ndarray:
    """A second of nothing, speech, a second of nothing."""
    return np.pad(speech(), RATE)


def test_a_pause_falls_by_most_of_the_level_s_depth() -> None:
    noisy = turn() + noise(len(turn()) / RATE, peak=0.05)[: len(turn())]
    for level, depth_db in enumerate(DEPTHS_DB):
        (found,) = gated([noisy], level)
        pause = slice(2000, RATE - 4000)
        fell_db = level_db(noisy[pause]) - level_db(found[pause])
        assert 0.75 * depth_db - 0.01 < fell_db < depth_db + 0.01


def test_speech_in_noise_comes_nearer_to_clean_speech() -> None:
    noisy = turn() + noise(len(turn()) / RATE, peak=0.05)[: len(turn())]
    (found,) = gated([noisy])
    assert level_db(found - turn()) < level_db(noisy - turn()) - 4


def test_clean_speech_is_hardly_touched() -> None:
    (found,) = gated([speech()])
    assert level_db(found - speech()) < level_db(speech()) - 30


def test_rows_of_any_length_are_what_each_is_alone() -> None:
    clips = [turn() + noise(len(turn()) / RATE, peak=0.02)[: len(turn())], noise(0.7), noise(0.01)[:3]]
    for together, clip in zip(gated(clips), clips, strict=True):
        np.testing.assert_allclose(together, gated([clip])[0], atol=1e-5)


def test_silence_is_silence() -> None:
    assert not gated([np.zeros(RATE, np.float32)])[0].any()
