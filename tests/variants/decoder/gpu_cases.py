"""What every decoder of our own on the GPU has to do, for the tests of each."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from benchmarks.decoder import states_for
from benchmarks.labels import compare, margin_after
from benchmarks.models import speaking_transducer
from harness.protocols import Decoded, Decoder, EncoderOutput, ShapePlan
from harness.protocols.options import NoOptions
from variants.decoder import cpu_synced
from variants.decoder.gpu.decoding import StreamState
from variants.models.options import PRECISIONS, ModelOptions
from variants.models.types import TdtModel

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NEAR_TIE = 0.02
"""Logits are rounded to 16 bits and the LSTM's state too: closer than this, rounding decides."""
BIASES = {
    "speech": (0.0, 0.0),
    "all blank": (50.0, 0.0),
    "blanks of no frame": (50.0, 50.0),
    "blank free": (-50.0, 0.0),
    "ten a frame": (-50.0, 50.0),
}


def full_size(dtype: torch.dtype = torch.float16) -> TdtModel:
    """Prediction network and joint of Parakeet-TDT 0.6B's size, at the rate of speech."""
    precision = next(name for name, of in PRECISIONS.items() if getattr(torch, of) is dtype)
    return speaking_transducer(ModelOptions("full_size", precision=precision), torch.device("cuda", 0))


def biased(model: TdtModel, blank: float, zero_duration: float) -> None:
    """Push the search: towards blank, and towards staying on the frame."""
    joint: Any = model.joint
    with torch.no_grad():
        joint.joint_net[-1].bias[model.blank_id] += blank
        joint.joint_net[-1].bias[model.blank_id + 1] += zero_duration


def ragged(model: TdtModel, batch: int, frames: int) -> EncoderOutput:
    """A batch whose first row is full and whose others have any length, zero included."""
    encoded = states_for(model, batch, max(frames, 1), 1000 * batch + frames)
    rng = random.Random(batch + frames)
    lengths = [frames, *(rng.randint(0, frames) for _ in range(batch - 1))]
    return EncoderOutput(encoded.values, torch.tensor(lengths, device=model.device))


def check_same(model: TdtModel, encoded: EncoderOutput, found: Decoded, coarseness: int = 1) -> None:
    """Token, frame and duration exact against the host-driven search; a difference has to be a tie."""
    reference = cpu_synced.build(model, NoOptions(), ShapePlan((), 1)).decode(encoded)
    agreement = compare(model, encoded, reference.hypotheses, found.hypotheses)
    assert agreement.largest_margin < NEAR_TIE * coarseness
    assert agreement.differences <= max(1, agreement.labels_compared * coarseness // 200)
    if isinstance(found.state, StreamState):  # NeMo's own state counts in another way
        check_overruns(model, encoded, reference, found, NEAR_TIE * coarseness)


def check_overruns(
    model: TdtModel, encoded: EncoderOutput, reference: Decoded, found: Decoded, near_tie: float
) -> None:
    """Same labels, same place in the next chunk, unless the duration of a last blank is a tie."""
    pairs = zip(reference.hypotheses, found.hypotheses, strict=True)
    moved = (reference.state.overrun != found.state.overrun).tolist()
    for row, (expected, got) in enumerate(pairs):
        if expected == got and moved[row]:
            assert margin_after(model, encoded, row, expected, len(expected.tokens)) < near_tie


def check_chunks(model: TdtModel, decoder: Decoder, chunk: int) -> None:
    """Streams in chunks, beside the host-driven search in the same chunks; a tie may part one of them."""
    reference = cpu_synced.build(model, NoOptions(), ShapePlan((), 1))
    whole = states_for(model, 4, 6 * chunk, 7)
    lengths = torch.full((4,), chunk, device=model.device)
    expected_state = state = None
    same = [True] * 4
    for start in range(0, 6 * chunk, chunk):
        part = EncoderOutput(whole.values[:, start : start + chunk].contiguous(), lengths)
        expected, found = reference.decode(part, expected_state), decoder.decode(part, state)
        expected_state, state = expected.state, found.state
        pairs = zip(same, expected.hypotheses, found.hypotheses, strict=True)
        same = [before and a == b for before, a, b in pairs]
    assert sum(same) >= 3
