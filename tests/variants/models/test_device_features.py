"""Features computed where the encoder runs: those of the host, in whatever batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.protocols import Segment
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE, noise, speech
from tests.variants.eager_parts import eager_parts
from variants.models.device_features import DeviceLogMel
from variants.models.features import FeatureConfig, LogMel
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build


def segments(*seconds: float) -> list[Segment]:
    sound = np.resize(speech(), 40 * RATE) + noise(40.0, peak=1e-3)
    return [Segment(sound[number * 1000 :][: round(s * RATE)], RATE, 0.0) for number, s in enumerate(seconds)]


@pytest.mark.parametrize("seconds", [(0.02,), (1.0,), (0.5, 7.3, 2.017), (0.03, 30.0), (1.0,) * 9])
def test_every_row_is_the_host_s(seconds: tuple[float, ...]) -> None:
    given = segments(*seconds)
    host = LogMel(FeatureConfig(), RATE)(given)
    device = DeviceLogMel(FeatureConfig(), RATE, torch.device("cpu"))(given)
    assert isinstance(device.values, torch.Tensor)
    assert device.lengths.tolist() == host.lengths.tolist()
    assert tuple(device.values.shape) == host.values.shape
    np.testing.assert_allclose(device.values.numpy(), host.values, atol=1e-3)


def test_stretches_of_rows_on_the_device_are_what_each_is_as_a_segment() -> None:
    """Beside each other, overlapping, at a row's ends, of one frame and of half a minute."""
    rows = np.stack([segments(35.0)[0].samples, np.roll(segments(35.0)[0].samples, 5000)])
    width = rows.shape[1]
    stretches = [
        (0, 0, 30 * RATE),
        (1, 0, 400),
        (1, 100, 5000),
        (0, width - 161, width),
        (1, width - RATE, width),
    ]
    given = [Segment(rows[row, start:end], RATE, start / RATE) for row, start, end in stretches]
    host = LogMel(FeatureConfig(), RATE)(given)
    features = DeviceLogMel(FeatureConfig(), RATE, torch.device("cpu"))
    device = features.of_stretches(torch.from_numpy(rows), np.array(stretches))
    assert device.lengths.tolist() == host.lengths.tolist()
    np.testing.assert_allclose(torch.as_tensor(device.values).numpy(), host.values, atol=1e-3)


def test_a_longer_batch_leaves_nothing_in_a_shorter_one() -> None:
    features = DeviceLogMel(FeatureConfig(), RATE, torch.device("cpu"))
    alone = features(segments(1.0)).values
    features(segments(3.0, 2.0))
    again = features(segments(1.0)).values
    assert isinstance(alone, torch.Tensor) and isinstance(again, torch.Tensor)
    assert torch.equal(alone, again)


def test_the_trained_model_hears_the_same_words() -> None:
    model = build(ModelOptions(name="parakeet_tiny", weights="embedded", device="cpu"))
    host = eager_parts(model)
    device = dataclasses.replace(host, model=dataclasses.replace(model, features_on="device"))
    given = [segments(2.5), segments(1.2, 3.0)]
    one, other = (parts.transcribe(given, SpanRecorder()) for parts in (host, device))
    assert [each.text for each in one] == [each.text for each in other]
    assert any(each.text for each in one)
