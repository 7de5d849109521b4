"""NeMo's decoder as a variant: forced modes, the same labels as ours."""

from __future__ import annotations

import random

import pytest
import torch

from harness.errors import UnavailableError
from harness.protocols import EncoderOutput, ShapePlan
from harness.protocols.options import NoOptions
from tests.variants.decoder.gpu_cases import NEEDS_GPU, check_same, full_size, ragged
from tests.variants.models.small import SMALL, small_model
from variants.decoder import cpu_synced, nemo
from variants.decoder.options import Nemo

PLAN = ShapePlan((2.0,), 4)


def states(batch: int, frames: int, seed: int) -> EncoderOutput:
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([rng.randint(0, frames) for _ in range(batch)])
    return EncoderOutput(torch.randn(batch, frames, SMALL.d_model, generator=generator), lengths)


@pytest.mark.parametrize("seed", range(10))
def test_same_labels_frames_and_durations_as_the_host_driven_search(seed: int) -> None:
    model = small_model()
    decoder = nemo.build(model, Nemo("torch_impl"), PLAN)
    encoded = states(5, 30, seed)
    expected = cpu_synced.build(model, NoOptions(), PLAN).decode(encoded).hypotheses
    assert decoder.decode(encoded).hypotheses == expected


def test_frames_of_a_chunk_count_from_its_own_beginning() -> None:
    model = small_model()
    ours, theirs = cpu_synced.build(model, NoOptions(), PLAN), nemo.build(model, Nemo("torch_impl"), PLAN)
    a = b = None
    for seed in range(4):
        chunk = states(3, 10, seed)
        chunk = EncoderOutput(chunk.values, torch.full((3,), 10))
        first, second = ours.decode(chunk, a), theirs.decode(chunk, b)
        assert first.hypotheses == second.hypotheses
        a, b = first.state, second.state


def test_streams_are_put_together_and_taken_apart_between_chunks() -> None:
    """Rows of a state in other batches and other orders: each stream goes on where it was."""
    model = small_model()
    decoder = nemo.build(model, Nemo("torch_impl"), PLAN)
    kept, state = decoder.start(5), None
    for seed in range(4):
        chunk = EncoderOutput(states(5, 10, seed).values, torch.full((5,), 10))
        together = decoder.decode(chunk, state)
        state = together.state
        for rows in ([3, 0], [4, 1, 2]):
            index = torch.tensor(rows)
            part = decoder.decode(
                EncoderOutput(chunk.values[index], chunk.lengths[index]), kept.select(index)
            )
            kept.assign(index, part.state)
            assert part.hypotheses == [together.hypotheses[row] for row in rows]


@pytest.mark.parametrize("mode", ["full_graph", "no_while_loops", "no_graphs"])
def test_a_graph_mode_without_a_gpu_is_unavailable(mode: str) -> None:
    with pytest.raises(UnavailableError, match=f"mode={mode}"):
        nemo.build(small_model(), Nemo(mode), PLAN)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("mode", ["full_graph", "no_while_loops", "no_graphs"])
def test_forced_mode_engages_and_captures_once(mode: str) -> None:
    model = full_size()
    decoder = nemo.build(model, Nemo(mode), ShapePlan((4.0,), 8))
    for batch in (8, 3):
        encoded = ragged(model, batch, 40)
        check_same(model, encoded, decoder.decode(encoded))
    evidence = decoder.evidence()
    assert evidence["mode_in_use"] == mode
    assert evidence["captures"] == 1
    assert evidence["full_graph"] == (mode == "full_graph")


@pytest.mark.gpu
@NEEDS_GPU
def test_the_whole_graphs_memory_is_nobody_elses() -> None:
    model = full_size()
    decoder = nemo.build(model, Nemo("full_graph"), ShapePlan((10.0,), 128))
    torch.cuda.empty_cache()  # what any later capture in the process begins with
    sizes = [mebibytes << 20 for mebibytes in (2, 20, 64) * 40]
    others = [torch.full((size,), 7, dtype=torch.uint8, device=model.device) for size in sizes]
    encoded = ragged(model, 128, 40)
    check_same(model, encoded, decoder.decode(encoded))
    assert all(bool((each == 7).all()) for each in others)
