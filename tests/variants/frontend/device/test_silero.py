"""Silero's detector in batches: the host's probabilities, whatever lies beside a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import UnavailableError
from harness.protocols import Audio
from tests.harness.audio.recordings import RATE, noise, speech, tone
from tests.variants.frontend.device.batches import padded
from tests.variants.test_cuda import needs_nvrtc
from variants.content_cache import ContentCache
from variants.cuda.compiler import compile_kernels
from variants.frontend.device.lstm import SOURCE
from variants.frontend.device.silero import BatchSilero, Recurrence
from variants.frontend.vad import SileroVad


@pytest.fixture(scope="module")
def detector() -> BatchSilero:
    return BatchSilero(torch.device("cpu"))


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


def test_without_a_gpu_the_kernel_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"frontend\.recurrence=kernel needs the model on a GPU"):
        BatchSilero(torch.device("cpu"), "kernel")


@needs_nvrtc
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_the_kernel_compiles_without_a_gpu(capability: tuple[int, int], tmp_path: Path) -> None:
    cubin = compile_kernels(SOURCE, [], {}, capability, ContentCache(tmp_path))
    assert cubin.image.startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recurrence", ["torch", "kernel"])
def test_on_a_gpu_probabilities_are_the_cpu_s(detector: BatchSilero, recurrence: Recurrence) -> None:
    on_gpu = BatchSilero(torch.device("cuda"), recurrence)
    for rows in (1, len(clips())):
        batch = padded(clips()[:rows])
        found = on_gpu(batch.cuda()).cpu()
        torch.testing.assert_close(found, detector(batch), atol=1e-4, rtol=0)


def test_nothing_in_it_is_trained(detector: BatchSilero) -> None:
    assert not any(parameter.requires_grad for parameter in detector.parameters())
