"""Log-mel features: NeMo's, to a thousandth."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.protocols import Segment
from tests.harness.audio.recordings import RATE, noise, speech, tone
from variants.models.features import FeatureConfig, LogMel, mel_filterbank

Reference = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def nemo() -> Any:
    """NeMo's preprocessor in Parakeet-TDT's configuration, without dither and padding."""
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    return AudioToMelSpectrogramPreprocessor(
        sample_rate=RATE,
        window_size=0.025,
        window_stride=0.01,
        window="hann",
        n_fft=512,
        features=128,
        normalize="per_feature",
        dither=0.0,
        pad_to=0,
    ).eval()


@pytest.fixture(scope="module")
def reference(nemo: Any) -> Reference:
    import torch

    def features(samples: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            values, lengths = nemo(
                input_signal=torch.from_numpy(samples)[None], length=torch.tensor([len(samples)])
            )
        return values[0, :, : int(lengths[0])].numpy()

    return features


def ours(samples: np.ndarray, config: FeatureConfig | None = None) -> np.ndarray:
    features = LogMel(config or FeatureConfig(), RATE)([Segment(samples, RATE, 0.0)])
    return features.values[0]


def spoken(seconds: float) -> np.ndarray:
    """Speech over faint noise, repeated to length."""
    count = round(seconds * RATE)
    return np.resize(speech(), count) + noise(seconds, peak=1e-3)[:count]


def hum(seconds: float) -> np.ndarray:
    """A tone over faint noise: forty decibels between bins."""
    return tone(seconds) + noise(seconds, peak=1e-3)


@pytest.mark.parametrize(
    "seconds", [0.01, 0.02, 0.0299, 0.03, 0.1, 0.5, 1.0, 2.34567, 5.12, 5.13, 10.0, 30.0]
)
@pytest.mark.parametrize("sound", [spoken, noise, hum])
def test_features_equal_nemo_s(
    reference: Reference, sound: Callable[[float], np.ndarray], seconds: float
) -> None:
    samples = sound(seconds)
    expected = reference(samples)
    assert ours(samples).shape == expected.shape == (128, len(samples) // 160)
    np.testing.assert_allclose(ours(samples), expected, atol=1e-3)


def test_speech_with_pauses_of_perfect_silence_equals_nemo_s(reference: Reference) -> None:
    samples = np.concatenate([np.zeros(8000, np.float32), speech(), np.zeros(8000, np.float32)])
    np.testing.assert_allclose(ours(samples), reference(samples), atol=1e-3)


def test_the_filterbank_equals_nemo_s(nemo: Any) -> None:
    np.testing.assert_allclose(mel_filterbank(RATE, 512, 128), nemo.filter_banks[0].numpy(), atol=1e-7)


def test_a_single_frame_is_zero_rather_than_not_a_number() -> None:
    np.testing.assert_allclose(ours(noise(0.0101)), 0.0, atol=1e-5)


def test_perfect_silence_stays_finite_and_small() -> None:
    """Its deviation is nothing but rounding, which NeMo amplifies by 1e5; ours is what NeMo means: zero."""
    np.testing.assert_allclose(ours(np.zeros(RATE, np.float32)), 0.0, atol=1e-3)


def test_values_are_contiguous_float32_with_zero_mean_and_unit_deviation() -> None:
    values = ours(spoken(3.0))
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values.mean(axis=1), 0.0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=1, ddof=1), 1.0, atol=1e-3)


def test_rows_are_the_segments_in_order_and_zero_beyond_their_frames() -> None:
    segments = [Segment(noise(seconds), RATE, 0.0) for seconds in (1.0, 0.0109, 0.5)]
    features = LogMel(FeatureConfig(), RATE)
    batch = features(segments)
    assert batch.values.shape == (3, 128, 100)
    assert batch.lengths.tolist() == [100, 1, 50] == [features.frames(len(s.samples)) for s in segments]
    np.testing.assert_array_equal(batch.values[2, :, :50], ours(segments[2].samples))
    assert not batch.values[2, :, 50:].any()


def test_without_normalization_the_logarithms_remain() -> None:
    values = ours(np.zeros(RATE, np.float32), FeatureConfig(normalize=False))
    np.testing.assert_allclose(values, np.log(2.0**-24), rtol=1e-6)


def test_ten_minutes_need_little_more_memory_than_their_features() -> None:
    samples = noise(600.0)
    tracemalloc.start()
    values = ours(samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * values.nbytes + 2 * samples.nbytes
