"""Voice detectors: probabilities per window, equal to the packages' own, found without their weight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from harness.protocols import Audio, SpeechMap
from tests.harness.audio.recordings import RATE, noise, speech, tone
from variants.frontend.vad import SileroVad, all_speech, silero_model, webrtc_vad


@pytest.fixture(scope="module")
def silero() -> SileroVad:
    return SileroVad()


def clip() -> np.ndarray:
    """A second of faint noise, speech, a second of faint noise: on 32 ms windows, a remainder at the end."""
    return np.concatenate([noise(1.0, peak=0.001), speech(), noise(1.01, peak=0.001, seed=1)])


def webrtc(audio: Audio) -> SpeechMap:
    return webrtc_vad(audio, aggressiveness=2)


def test_no_detector_calls_everything_speech() -> None:
    speech_map = all_speech(Audio(tone(1.0), RATE))
    assert speech_map.probabilities.tolist() == [1.0] * 34


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.03, 0.032, 1.0, 4.096, 4.1])
def test_every_sample_lies_in_a_window(silero: SileroVad, seconds: float) -> None:
    for detector in (all_speech, webrtc, silero):
        audio = Audio(noise(seconds), RATE)
        speech_map = detector(audio)
        windows = len(speech_map.probabilities)
        assert windows == np.ceil(len(audio.samples) / round(speech_map.window_s * RATE))
        assert speech_map.probabilities.dtype == np.float32
        assert speech_map.audio is audio


def test_detectors_tell_speech_from_quiet(silero: SileroVad) -> None:
    for detector in (webrtc, silero):
        speech_map = detector(Audio(clip(), RATE))
        times = np.arange(len(speech_map.probabilities)) * speech_map.window_s
        spoken = (times > 1.3) & (times < len(speech()) / RATE + 0.5)
        assert speech_map.probabilities[spoken].mean() > 0.7
        assert speech_map.probabilities[times < 0.9].mean() < 0.2


def test_webrtc_agrees_with_its_package() -> None:
    import webrtcvad

    detector = webrtcvad.Vad(2)
    pcm = np.clip(clip() * 32768, -32768, 32767).astype("<i2")
    frames = pcm[: len(pcm) // 480 * 480].reshape(-1, 480)
    expected = [float(detector.is_speech(frame.tobytes(), RATE)) for frame in frames]
    assert webrtc(Audio(clip(), RATE)).probabilities[: len(expected)].tolist() == expected


@pytest.mark.parametrize(("onnx", "tolerance"), [(True, 1e-5), (False, 1e-3)], ids=["onnx", "jit"])
def test_silero_agrees_with_its_package(silero: SileroVad, onnx: bool, tolerance: float) -> None:
    import torch
    from silero_vad import load_silero_vad

    with torch.no_grad():
        expected = load_silero_vad(onnx=onnx).audio_forward(torch.from_numpy(clip())[None], RATE)[0].numpy()
    np.testing.assert_allclose(silero(Audio(clip(), RATE)).probabilities, expected, atol=tolerance)


def test_silero_s_memory_and_context_cross_its_blocks(silero: SileroVad) -> None:
    """Longer than one block of windows, whose borders must not show."""
    import torch
    from silero_vad import load_silero_vad

    long = np.concatenate([clip(), clip()])
    assert len(long) > 2 * 128 * 512
    expected = load_silero_vad(onnx=True).audio_forward(torch.from_numpy(long)[None], RATE)[0].numpy()
    np.testing.assert_allclose(silero(Audio(long, RATE)).probabilities, expected, atol=1e-4)


def test_threads_may_share_a_detector(silero: SileroVad) -> None:
    clips = [Audio(np.roll(clip(), 5000 * shift), RATE) for shift in range(6)]
    alone = [silero(audio).probabilities for audio in clips]
    with ThreadPoolExecutor(4) as pool:
        together = [speech_map.probabilities for speech_map in pool.map(silero, clips)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_graph_lies_in_the_installed_package() -> None:
    assert silero_model().is_file()
