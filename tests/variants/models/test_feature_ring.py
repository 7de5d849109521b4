"""Features of live streams: what is computed once for each frame is what a clip of the window has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.protocols import Segment
from variants.models.device_features import BatchLogMel
from variants.models.feature_ring import FeatureRing
from variants.models.features import FeatureConfig, LogMel

RATE, HOP = 16_000, 160
CONFIG = FeatureConfig()


def ring(slots: int, frames: int) -> FeatureRing:
    return FeatureRing(BatchLogMel(CONFIG, RATE), slots, frames)


def write(made: FeatureRing, slot: int, samples: np.ndarray, first: int, until: int) -> None:
    """Frames from ``first`` on, of a stream that is known up to sample ``until``."""
    padded = np.concatenate((np.zeros(made.before, np.float32), samples[:until], np.zeros(400, np.float32)))
    numbers = (np.array([value]) for value in (slot, first, until // HOP - first))
    ends = torch.tensor([made.before + until - first * HOP])
    made.write(*map(torch.from_numpy, numbers), torch.from_numpy(padded[None, first * HOP :]), ends)


def shown(made: FeatureRing, slot: int, first: int, count: int) -> np.ndarray:
    return made.windows(torch.tensor([slot]), torch.tensor([first]), torch.tensor([count]), count)[0].numpy()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    rng = np.random.default_rng(3)
    loudness = np.repeat(rng.uniform(0.001, 0.3, 40), RATE // 10)
    return (rng.standard_normal(4 * RATE) * loudness).astype(np.float32)


def clip(samples: np.ndarray) -> np.ndarray:
    return np.asarray(LogMel(CONFIG, RATE)([Segment(samples, RATE, 0.0)]).values[0])


def test_a_window_from_the_beginning_is_the_clip_s_whatever_follows(sound: np.ndarray) -> None:
    made, framed = ring(1, 300), 0
    for until in range(8 * HOP, 300 * HOP, 8 * HOP):
        write(made, 0, sound, framed, until)
        framed = until // HOP - 1
        found = shown(made, 0, 0, until // HOP)
        assert np.abs(found - clip(sound[:until])).max() < 2e-3


def test_a_later_window_differs_in_its_first_two_frames_alone(sound: np.ndarray) -> None:
    """They hear what came before them, where a clip has zeros; the rest follows through normalization."""
    made, framed = ring(1, 128), 0
    for until in range(64 * HOP, 320 * HOP, 64 * HOP):
        write(made, 0, sound, framed, until)
        framed = until // HOP - 1
    until = 256 * HOP
    found, expected = shown(made, 0, 128, 128), clip(sound[until // 2 : until])
    assert np.abs(found[:, :2] - expected[:, :2]).max() > 0.1
    assert np.abs(found[:, 2:] - expected[:, 2:]).mean() < 0.03


def test_rows_of_other_streams_are_left_alone(sound: np.ndarray) -> None:
    made = ring(3, 64)
    write(made, 1, sound, 0, 64 * HOP)
    before = shown(made, 1, 0, 64)
    for slot in (0, 2):
        write(made, slot, sound[::-1].copy(), 0, 64 * HOP)
    assert np.array_equal(shown(made, 1, 0, 64), before)
