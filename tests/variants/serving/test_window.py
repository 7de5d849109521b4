"""The rolling window itself: with an encoder that needs no context, cutting changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from harness.protocols import EncoderOutput, Evidence, FeatureBatch, Segment, Transcript
from tests.variants.models.small import SMALL, small_model
from variants.decoder.cpu_synced import CpuSyncedDecoder
from variants.models.types import TdtModel
from variants.serving.window import RollingStream, StreamingOptions

RATE, FRAME = 16_000, 1_280


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return small_model()


class FrameEncoder:
    """One state per frame of 1,280 samples, from these alone."""

    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        return EncoderOutput(torch.from_numpy(batch.values).transpose(1, 2), torch.from_numpy(batch.lengths))

    def evidence(self) -> Evidence:
        return {}


class FrameFeatures:
    """``[1, 24, T]``: the first samples of every frame, so that a shift by one sample shows."""

    def frames(self, samples: int) -> int:
        return samples // FRAME

    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        (segment,) = segments
        count = self.frames(len(segment.samples))
        frames = segment.samples[: count * FRAME].reshape(count, FRAME)
        return FeatureBatch(frames[None, :, : SMALL.d_model].transpose(0, 2, 1).copy(), np.array([count]))


def transcribe(model: TdtModel, samples: np.ndarray, options: StreamingOptions, step: int) -> Transcript:
    stream = RollingStream(
        FrameEncoder(),
        CpuSyncedDecoder(model),
        FrameFeatures(),
        model.tokenizer.decode,
        options.in_samples(FRAME, RATE),
    )
    for start in range(0, len(samples), step):
        stream.push(samples[start : start + step])
    return stream.commit()


@pytest.mark.parametrize("left_s", [0.0, 0.24, 4.0])
@pytest.mark.parametrize("chunk_s", [0.08, 0.4])
@pytest.mark.parametrize("right_s", [0.0, 0.16, 8.0])
def test_chunks_neither_lose_nor_repeat_a_frame(
    model: TdtModel,
    left_s: float,
    chunk_s: float,
    right_s: float,
) -> None:
    samples = 2.0 * np.random.default_rng(7).standard_normal(5 * RATE + 123, dtype=np.float32)
    whole = transcribe(model, samples, StreamingOptions(0.0, 8.0, 0.0), step=len(samples))
    assert len(whole.hypotheses[0].tokens) > 10
    assert transcribe(model, samples, StreamingOptions(left_s, chunk_s, right_s), step=777) == whole
