"""Silero's detector in batches: the host's probabilities, whatever lies beside a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.protocols import Audio
from tests.harness.audio.recordings import RATE, noise, speech, tone
from tests.variants.frontend.device.batches import padded
from variants.frontend.device.silero import BatchSilero
from variants.frontend.vad import SileroVad


@pytest.fixture(scope="module")
def detector() -> BatchSilero:
    return BatchSilero()


@pytest.fixture(scope="module")
def host() -> SileroVad:
    return SileroVad()


def clips() -> list[np.ndarray]:
    """Speech between quiet, long enough for the host's blocks; in noise; a tone; silence; scraps."""
    quiet = noise(1.01, peak=0.001)
    turns = np.concatenate([quiet, speech(), quiet, speech(), noise(3.0, peak=0.01)])
    sounds = [turns, speech() + noise(len(speech()) / RATE, peak=0.2), tone(2.0), np.zeros(RATE, np.float32)]
    return [*sounds, speech()[:700], speech()[:513], speech()[:512], speech()[:1]]


def test_probabilities_are_the_host_s_in_any_company(detector: BatchSilero, host: SileroVad) -> None:
    found = detector(padded(clips())).numpy()
    assert len(clips()[0]) > 128 * 512
    for row, clip in zip(found, clips(), strict=True):
        expected = host(Audio(clip, RATE)).probabilities
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)


def test_windows_are_the_same_in_one_block_or_several(
    detector: BatchSilero, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = padded(clips())
    whole = detector(batch)
    monkeypatch.setattr("variants.frontend.device.silero._BLOCK", 100)
    torch.testing.assert_close(detector(batch), whole, atol=1e-6, rtol=0)


def test_nothing_in_it_is_trained(detector: BatchSilero) -> None:
    assert not any(parameter.requires_grad for parameter in detector.parameters())
