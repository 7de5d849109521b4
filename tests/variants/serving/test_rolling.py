"""The rolling window itself: with an encoder that needs no context, cutting changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.protocols import EncoderOutput, Evidence, FeatureBatch, Transcript
from harness.spans import SpanRecorder
from tests.variants.models.small import SMALL, small_model
from variants.decoder.cpu_synced import CpuSyncedDecoder
from variants.models.types import TdtModel
from variants.serving.chunks import WindowedChunks
from variants.serving.pool import OnlyStream
from variants.serving.rolling import RollingPool
from variants.serving.window import StreamingOptions

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


class FrameRing:
    """The first samples of every frame of 1,280, so that a shift by one sample shows."""

    device, hop, before = torch.device("cpu"), FRAME, SMALL.d_model + 1

    def __init__(self, slots: int, frames: int) -> None:
        self._ring = torch.zeros(slots, frames, SMALL.d_model)

    def write(
        self, slots: torch.Tensor, first: torch.Tensor, counts: torch.Tensor, *rest: torch.Tensor
    ) -> None:
        samples, ends = rest
        for row, slot in enumerate(slots):
            for number in range(int(counts[row])):
                start = self.before + number * FRAME
                assert start + SMALL.d_model <= ends[row]
                at = (first[row] + number) % self._ring.shape[1]
                self._ring[slot, at] = samples[row, start : start + SMALL.d_model]

    def windows(
        self, slots: torch.Tensor, first: torch.Tensor, counts: torch.Tensor, width: int
    ) -> torch.Tensor:
        at = (first[:, None] + torch.arange(width)) % self._ring.shape[1]
        shown = self._ring[slots[:, None], at] * (torch.arange(width) < counts[:, None])[:, :, None]
        return shown.transpose(1, 2).contiguous()


def pool_of(
    model: TdtModel, options: StreamingOptions, slots: int = 1, most_frames: int | None = None
) -> RollingPool:
    contexts = options.in_samples(FRAME, RATE)
    ring = FrameRing(slots, contexts.window // FRAME)
    decoder = CpuSyncedDecoder(model)
    return RollingPool(
        WindowedChunks(FrameEncoder(), most_frames), decoder, ring, model.tokenizer.decode, contexts, slots
    )


def transcribe(model: TdtModel, samples: np.ndarray, options: StreamingOptions, step: int) -> Transcript:
    stream = OnlyStream(pool_of(model, options))
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


@pytest.mark.parametrize("most_frames", [1, 20, 1000])
def test_windows_that_the_encoder_is_given_a_few_at_a_time_give_the_same(
    model: TdtModel, most_frames: int
) -> None:
    options = StreamingOptions(0.24, 0.4, 0.16)
    spoken = 2.0 * np.random.default_rng(8).standard_normal((5, 3 * RATE), dtype=np.float32)
    pool = pool_of(model, options, 5, most_frames)
    slots = [pool.open() for _ in spoken]
    for start in range(0, 3 * RATE, RATE // 4):
        for slot, samples in zip(slots, spoken, strict=True):
            piece = samples[start : start + RATE // 4 - 100 * slot]  # each ends elsewhere
            assert pool.push(slot, piece) == len(piece)
        while due := [slot for slot in slots if pool.window(slot)]:
            pool.step(due, SpanRecorder())
    for slot, samples in zip(slots, spoken, strict=True):
        pieces = [samples[n : n + RATE // 4 - 100 * slot] for n in range(0, 3 * RATE, RATE // 4)]
        heard = np.concatenate(pieces)
        pool.end(slot)
        while pool.window(slot):
            pool.step([slot], SpanRecorder())
        assert pool.transcript(slot) == transcribe(model, heard, options, len(heard))
