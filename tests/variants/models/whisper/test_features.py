"""Whisper's log-mel, on the host and in torch, held to openai-whisper's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.errors import UsageError
from harness.protocols import Segment
from tests.harness.audio.recordings import RATE, noise, speech
from variants.models.whisper.features import WINDOW_SAMPLES, DeviceWindowLogMel, WindowLogMel


def sound(seconds: float) -> np.ndarray:
    return (np.resize(speech(), round(seconds * RATE)) + noise(seconds, peak=1e-3)).astype(np.float32)


def openai(samples: np.ndarray, bins: int) -> np.ndarray:
    audio = pytest.importorskip("whisper.audio", reason="needs the extra whisper")
    made: np.ndarray = audio.log_mel_spectrogram(audio.pad_or_trim(samples), bins).numpy()
    return made


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 2.5, 29.99, 30.0])
def test_host_and_device_hear_as_openai_whisper(seconds: float, bins: int) -> None:
    segments = [Segment(sound(seconds), RATE, 0.0), Segment(0.3 * sound(1.0), RATE, 0.0)]
    expected = np.stack([openai(each.samples, bins) for each in segments])
    host = WindowLogMel(bins)(segments)
    device = DeviceWindowLogMel(bins, torch.device("cpu"))(segments)
    np.testing.assert_allclose(host.values, expected, atol=1e-4)
    np.testing.assert_allclose(np.asarray(device.values), expected, atol=1e-4)
    assert host.lengths.tolist() == device.lengths.tolist() == [min(3000, round(100 * seconds)), 100]


def test_silence_is_as_openai_whisper_hears_it() -> None:
    silence = np.zeros(RATE, np.float32)
    np.testing.assert_allclose(WindowLogMel(80).of(silence, WINDOW_SAMPLES), openai(silence, 80), atol=1e-6)


def test_a_whole_recording_is_followed_by_silence() -> None:
    audio = pytest.importorskip("whisper.audio", reason="needs the extra whisper")
    samples = sound(41.237)
    expected = audio.log_mel_spectrogram(samples, 80, padding=WINDOW_SAMPLES).numpy()
    found = WindowLogMel(80).of(samples, len(samples) + WINDOW_SAMPLES)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_a_window_cannot_hold_is_refused_and_not_cut() -> None:
    segment = Segment(np.zeros(WINDOW_SAMPLES + 1, np.float32), RATE, 0.0)
    for features in (WindowLogMel(80), DeviceWindowLogMel(80, torch.device("cpu"))):
        with pytest.raises(UsageError, match="max_segment_s=30"):
            features([segment])
