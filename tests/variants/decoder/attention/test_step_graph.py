"""Whisper's steps as graphs: the same search, whether captured (on a GPU) or run as it is (here)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.errors import HarnessError, UnavailableError
from harness.protocols import ShapePlan, silent
from tests.variants.decoder.attention.test_cpu_synced import CLIPS, MULTILINGUAL, encoded
from tests.variants.models.whisper.parts import model
from tests.variants.models.whisper.test_features import sound
from variants.decoder.attention.capture import CudaGraphs, Uncaptured
from variants.decoder.attention.cpu_synced import CpuSyncedDecoder
from variants.decoder.attention.search import Found
from variants.decoder.attention.step_graph import StepGraphDecoder, build
from variants.decoder.options import StepGraph


def uncaptured(made, poll_every: int, max_batch: int) -> StepGraphDecoder:
    return StepGraphDecoder(made, StepGraph(poll_every), max_batch, Uncaptured(), silent)


def assert_same(found: list[Found], expected: list[Found]) -> None:
    """Tokens are equal; sums of as many columns as a graph reads are nearly so."""
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.tokens, mine.language) == (theirs.tokens, theirs.language)
        assert mine.no_speech == pytest.approx(theirs.no_speech, rel=1e-3)
        assert mine.mean_log_probability == pytest.approx(theirs.mean_log_probability, rel=1e-3)


@pytest.mark.parametrize(("poll_every", "max_batch"), [(7, 4), (500, 2)])
def test_steps_without_a_look_say_the_same(poll_every: int, max_batch: int) -> None:
    made = model(max_tokens=110)  # most windows end before, some at the limit
    states = encoded(made, CLIPS)
    decoder = uncaptured(made, poll_every, max_batch)
    assert_same(decoder.search(states), CpuSyncedDecoder(made, 3).search(states))
    evidence = decoder.evidence()
    assert (evidence["windows"], evidence["rows_filled_up"]) == (3, int(max_batch == 4))
    assert evidence["polls"] <= evidence["steps"] / poll_every + 2 * evidence["begins"]
    assert evidence["not_engaged"] is None


def test_what_a_larger_batch_left_is_not_heard_in_a_smaller_one() -> None:
    made = model(size=MULTILINGUAL, language=None, max_tokens=20)
    many, one = encoded(made, CLIPS), encoded(made, [sound(2.0)])
    decoder = uncaptured(made, 3, 4)
    alone = decoder.search(one)
    decoder.search(many)
    assert decoder.search(one) == alone
    assert_same(alone, CpuSyncedDecoder(made, 1).search(one))
    assert decoder.languages(many) == CpuSyncedDecoder(made, 2).languages(many)


def test_text_from_before_is_taken_by_steps_too() -> None:
    made = model(max_tokens=60)
    states = encoded(made, CLIPS[:1])
    previous = list(range(1000, 1200))
    decoder = uncaptured(made, 4, 1)
    assert_same(decoder.search(states, previous), CpuSyncedDecoder(made, 1).search(states, previous))


def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(UnavailableError, match="decoder=step_graph captures CUDA graphs"):
        build(model(), StepGraph(), ShapePlan((30.0,), 1))


# ---------------------------------------------------------------- on a GPU


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("language", [None, "en"])
def test_captured_steps_say_what_the_host_in_the_loop_says(gpu: torch.device, language: str | None) -> None:
    made = model(size=dataclasses.replace(MULTILINGUAL, n_text_layer=3), device=gpu.type, language=language)
    states = encoded(made, [*CLIPS, 0.5 * sound(9.0), np.zeros(100, np.float32)])
    decoder = build(made, StepGraph(poll_every=5), ShapePlan((30.0,), 4))
    expected = [each.tokens for each in CpuSyncedDecoder(made, 4).search(states)]
    for _ in range(2):
        assert [each.tokens for each in decoder.search(states)] == expected
    assert decoder.evidence()["captures_after_build"] == 0
    assert decoder.evidence()["steps"] > 0


@pytest.mark.gpu
def test_what_a_graph_cannot_hold_is_said(gpu: torch.device) -> None:
    numbers = torch.ones(3, device=gpu)

    def looks() -> None:
        numbers.add_(float(numbers.sum()))

    with pytest.raises(HarnessError, match="capture of a look at the host failed"):
        CudaGraphs(gpu).record(looks, "a look at the host")
