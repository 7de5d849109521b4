"""The eager encoder: what NeMo computes, whatever the batch around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.protocols import FeatureBatch, ShapePlan
from harness.protocols.options import NoOptions
from variants.encoder.eager import build
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build as build_tiny
from variants.models.types import TdtModel

PLAN = ShapePlan((1.0, 5.0), max_batch=4)


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return build_tiny(ModelOptions(name="parakeet_tiny", device="cpu"))


def clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((128, frames), dtype=np.float32)


def pad(clips: list[np.ndarray]) -> FeatureBatch:
    lengths = np.array([each.shape[1] for each in clips], np.int64)
    return FeatureBatch(
        np.stack([np.pad(c, ((0, 0), (0, lengths.max() - c.shape[1]))) for c in clips]), lengths
    )


def test_states_are_batch_time_width(model: TdtModel) -> None:
    encoder = build(model, NoOptions(), PLAN)
    encoded = encoder.encode(pad([clip(100), clip(37)]))
    assert encoded.values.shape == (2, 13, 176)
    assert encoded.lengths.tolist() == [13, 5]
    with torch.inference_mode():
        features, lengths = torch.from_numpy(clip(100))[None], torch.tensor([100])
        states, _ = model.encoder(audio_signal=features, length=lengths)
    torch.testing.assert_close(encoded.values[:1], states.transpose(1, 2), rtol=1e-3, atol=1e-4)


def test_padding_changes_nothing(model: TdtModel) -> None:
    encoder = build(model, NoOptions(), PLAN)
    alone = encoder.encode(pad([clip(50)])).values
    padded = pad([clip(50), clip(200, seed=1)])
    padded.values[0, :, 50:] = 1e3  # whatever lies beyond the length
    beside = encoder.encode(padded)
    torch.testing.assert_close(beside.values[:1, : int(beside.lengths[0])], alone, rtol=1e-3, atol=1e-4)


def test_no_rows_and_no_frames(model: TdtModel) -> None:
    encoder = build(model, NoOptions(), PLAN)
    nobody = FeatureBatch(np.zeros((0, 128, 40), np.float32), np.zeros(0, np.int64))
    assert encoder.encode(nobody).values.shape == (0, 0, 176)
    nothing = FeatureBatch(np.zeros((2, 128, 0), np.float32), np.zeros(2, np.int64))
    assert encoder.encode(nothing).lengths.tolist() == [0, 0]


def test_positions_are_ready_for_the_longest_segment_of_the_plan(model: TdtModel) -> None:
    build(model, NoOptions(), ShapePlan((1.0,), 1, segment_lengths_s=(61.0,)))
    ready = model.encoder.max_audio_length
    assert ready >= 6100
    build(model, NoOptions(), PLAN).encode(pad([clip(6100)]))
    assert model.encoder.max_audio_length == ready


def test_evidence_counts_calls_by_shape(model: TdtModel) -> None:
    encoder = build(model, NoOptions(), PLAN)
    for frames in (40, 40, 24):
        encoder.encode(pad([clip(frames)]))
    evidence = dict(encoder.evidence())
    memory = evidence.pop("memory")
    assert memory["weights_bytes"] >= sum(parameter.nbytes for parameter in model.encoder.parameters())
    assert evidence == {
        "calls": 3,
        "shapes": {"1x24": 1, "1x40": 2},
        "device": "cpu",
        "dtype": "float32",
    }
