"""The host-driven greedy search, held to NeMo's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from harness.protocols import EncoderOutput, Hypothesis, ShapePlan
from harness.protocols.options import NoOptions
from tests.variants.models.small import SMALL, small_model
from variants.decoder.cpu_synced import CpuSyncedDecoder, build
from variants.models.types import TdtModel

CASES = 200


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return small_model()


@pytest.fixture
def output_bias(model: TdtModel) -> Iterator[torch.Tensor]:
    """The joint's output bias; what a test does to it is undone."""
    joint: Any = model.joint
    bias = joint.joint_net[-1].bias
    before = bias.clone()
    yield bias
    bias.copy_(before)


class Oracle:
    """NeMo's ``GreedyBatchedTDTLabelLoopingComputer.torch_impl``."""

    def __init__(self, model: TdtModel) -> None:
        from nemo.collections.asr.parts.submodules.transducer_decoding.tdt_label_looping import (
            GreedyBatchedTDTLabelLoopingComputer,
        )

        self._search = GreedyBatchedTDTLabelLoopingComputer(
            model.prednet,
            model.joint,
            blank_index=model.blank_id,
            durations=list(model.durations),
            max_symbols_per_step=model.max_symbols,
            include_duration=True,
            allow_cuda_graphs=False,
        )

    @torch.inference_mode()
    def decode(self, encoded: EncoderOutput, state: Any = None) -> tuple[list[Hypothesis], Any]:
        found, state = self._search.torch_impl(encoded.values, encoded.lengths, state)
        return [_row(found, row) for row in range(len(encoded.lengths))], state


def _row(found: Any, row: int) -> Hypothesis:
    count = int(found.current_lengths[row])
    fields = (found.transcript, found.timestamps, found.token_durations)
    return Hypothesis(*(tuple(field[row, :count].tolist()) for field in fields))


@dataclass(frozen=True)
class Case:
    encoded: EncoderOutput
    blank_bias: float
    zero_bias: float


def random_case(seed: int, max_frames: int = 300, max_batch: int = 32) -> Case:
    """Lengths from 0, batches of 1 to ``max_batch``, from almost all blank to ten labels a frame.

    Every eighth case has up to ``max_frames`` frames, the others forty: two hundred stay within seconds.
    """
    rng = random.Random(seed)
    batch = rng.randint(1, max_batch)
    frames = rng.randint(1, max_frames if seed % 8 == 0 else 40)
    lengths = torch.tensor([rng.randint(0, frames) for _ in range(batch)])
    values = 2.0 * torch.randn(batch, frames, SMALL.d_model, generator=torch.Generator().manual_seed(seed))
    return Case(EncoderOutput(values, lengths), rng.uniform(-6.0, 9.0), rng.uniform(-4.0, 10.0))


def set_case(output_bias: torch.Tensor, base: torch.Tensor, case: Case) -> None:
    output_bias.copy_(base)
    output_bias[SMALL.blank_id] += case.blank_bias
    output_bias[SMALL.blank_id + 1] += case.zero_bias


def test_tokens_frames_and_state_equal_nemos(model: TdtModel, output_bias: torch.Tensor) -> None:
    oracle, decoder, base = Oracle(model), CpuSyncedDecoder(model), output_bias.clone()
    labels_per_frame = []
    for seed in range(CASES):
        case = random_case(seed)
        set_case(output_bias, base, case)
        expected, state = oracle.decode(case.encoded)
        decoded = decoder.decode(case.encoded)
        for theirs, ours in zip(expected, decoded.hypotheses, strict=True):
            assert (ours.tokens, ours.frames) == (theirs.tokens, theirs.frames), f"case {seed}"
        assert torch.equal(decoded.state.overrun, state.time_jumps), f"case {seed}"
        assert torch.equal(decoded.state.last_labels, state.labels), f"case {seed}"
        labels = sum(len(hypothesis.tokens) for hypothesis in decoded.hypotheses)
        labels_per_frame.append(labels / max(1, int(case.encoded.lengths.sum())))
    # The cases did reach both ends.
    assert min(labels_per_frame) < 0.05
    assert max(labels_per_frame) > 5.0


def test_durations_equal_nemos_one_utterance_at_a_time(model: TdtModel, output_bias: torch.Tensor) -> None:
    """In a batch, NeMo 3.0 overwrites the durations of rows that have found their label while it goes on
    for the others (``durations`` is not masked in its inner loop). Alone, each row's are right."""
    oracle, decoder, base = Oracle(model), CpuSyncedDecoder(model), output_bias.clone()
    for seed in range(CASES):
        case = random_case(seed, max_frames=60, max_batch=2)
        set_case(output_bias, base, case)
        ours = decoder.decode(case.encoded).hypotheses
        for row, length in enumerate(case.encoded.lengths):
            alone = EncoderOutput(case.encoded.values[row : row + 1], length[None])
            assert ours[row] == oracle.decode(alone)[0][0], f"case {seed}"


def test_ten_labels_on_one_frame_force_the_next(model: TdtModel, output_bias: torch.Tensor) -> None:
    output_bias[SMALL.blank_id] = -1e4
    output_bias[SMALL.blank_id + 1] = 1e4
    encoded = EncoderOutput(torch.randn(2, 3, SMALL.d_model), torch.tensor([3, 1]))
    first, second = CpuSyncedDecoder(model).decode(encoded).hypotheses
    assert first.frames == (0,) * 10 + (1,) * 10 + (2,) * 10
    assert second.frames == (0,) * 10
    assert set(first.durations) == {0}


def test_a_label_may_skip_beyond_the_end(model: TdtModel, output_bias: torch.Tensor) -> None:
    output_bias[SMALL.blank_id] = -1e4
    output_bias[SMALL.blank_id + 1 + 4] = 1e4
    encoded = EncoderOutput(torch.randn(1, 6, SMALL.d_model), torch.tensor([6]))
    decoded = CpuSyncedDecoder(model).decode(encoded)
    assert decoded.hypotheses[0].frames == (0, 4)
    assert decoded.hypotheses[0].durations == (4, 4)
    assert decoded.state.overrun.tolist() == [2]


def test_chunks_continue_as_if_undivided(model: TdtModel, output_bias: torch.Tensor) -> None:
    decoder, base = CpuSyncedDecoder(model), output_bias.clone()
    for seed in range(40):
        case = random_case(seed, max_frames=60, max_batch=6)
        set_case(output_bias, base, case)
        whole = decoder.decode(case.encoded)
        pieces, state = in_chunks(decoder, case.encoded, random.Random(seed))
        assert pieces == whole.hypotheses, f"case {seed}"
        assert torch.equal(state.overrun, whole.state.overrun), f"case {seed}"


def in_chunks(
    decoder: CpuSyncedDecoder, encoded: EncoderOutput, rng: random.Random
) -> tuple[list[Hypothesis], Any]:
    """Decode in chunks of 1 to 9 frames and join the hypotheses, frames counted from the beginning."""
    joined = [Hypothesis(()) for _ in encoded.lengths]
    state, start, total = None, 0, int(encoded.values.shape[1])
    while start < total or state is None:
        size = rng.randint(1, 9)
        lengths = (encoded.lengths - start).clamp(0, min(size, total - start))
        decoded = decoder.decode(EncoderOutput(encoded.values[:, start : start + size], lengths), state)
        state = decoded.state
        joined = [_append(*pair, start) for pair in zip(joined, decoded.hypotheses, strict=True)]
        start += size
    return joined, state


def _append(before: Hypothesis, after: Hypothesis, start: int) -> Hypothesis:
    return Hypothesis(
        before.tokens + after.tokens,
        before.frames + tuple(frame + start for frame in after.frames),
        before.durations + after.durations,
    )


def test_chunks_equal_nemos_chunks(model: TdtModel, output_bias: torch.Tensor) -> None:
    oracle, decoder, base = Oracle(model), CpuSyncedDecoder(model), output_bias.clone()
    for seed in range(20):
        case = random_case(seed, max_frames=60, max_batch=6)
        set_case(output_bias, base, case)
        ours_state = theirs_state = None
        for start in range(0, case.encoded.values.shape[1], 7):
            lengths = (case.encoded.lengths - start).clamp(0, 7)
            chunk = EncoderOutput(case.encoded.values[:, start : start + 7], lengths)
            decoded = decoder.decode(chunk, ours_state)
            expected, theirs_state = oracle.decode(chunk, theirs_state)
            ours_state = decoded.state
            assert [each.tokens for each in decoded.hypotheses] == [each.tokens for each in expected]
            assert torch.equal(ours_state.overrun, theirs_state.time_jumps)


def test_nothing_to_decode(model: TdtModel) -> None:
    decoder = CpuSyncedDecoder(model)
    empty = EncoderOutput(torch.zeros(0, 5, SMALL.d_model), torch.zeros(0, dtype=torch.int64))
    assert decoder.decode(empty).hypotheses == []
    silent = EncoderOutput(torch.zeros(2, 0, SMALL.d_model), torch.zeros(2, dtype=torch.int64))
    assert decoder.decode(silent).hypotheses == [Hypothesis(()), Hypothesis(())]
    assert decoder.evidence() == {"utterances": 2, "joint_steps": 0, "label_steps": 0, "host_syncs": 0}


def test_evidence_counts_steps(model: TdtModel, output_bias: torch.Tensor) -> None:
    output_bias[SMALL.blank_id] = 1e4
    output_bias[SMALL.blank_id + 1 + 1] = 1e4
    decoder = CpuSyncedDecoder(model)
    decoder.decode(EncoderOutput(torch.randn(3, 5, SMALL.d_model), torch.tensor([5, 2, 0])))
    assert decoder.evidence() == {"utterances": 3, "joint_steps": 5, "label_steps": 0, "host_syncs": 5}


def test_refuses_foreign_states(model: TdtModel) -> None:
    decoder = build(model, NoOptions(), ShapePlan((1.0,), 1))
    encoded = EncoderOutput(torch.zeros(1, 2, SMALL.d_model), torch.tensor([2]))
    with pytest.raises(TypeError, match=r"Decoded\.state"):
        decoder.decode(encoded, object())
    state = decoder.decode(encoded).state
    with pytest.raises(ValueError, match="1 streams, the batch 2"):
        decoder.decode(EncoderOutput(torch.zeros(2, 2, SMALL.d_model), torch.tensor([2, 2])), state)
