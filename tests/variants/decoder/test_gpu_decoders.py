"""The graph with a WHILE node and the persistent kernel against the host-driven search, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.protocols import ShapePlan
from tests.variants.decoder.gpu_cases import (
    BIASES,
    NEEDS_GPU,
    biased,
    check_chunks,
    check_same,
    full_size,
    ragged,
)
from variants import registry
from variants.decoder import conditional_graph, megakernel
from variants.decoder.gpu.decoding import GpuDecoder
from variants.decoder.options import ConditionalGraph, Megakernel
from variants.models.types import TdtModel

pytestmark = [pytest.mark.gpu, NEEDS_GPU]

Build = Callable[..., GpuDecoder]


@pytest.fixture(params=["conditional_graph", "megakernel"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """``build(model, **options)``, with kernels compiled into a folder of the test's own."""

    def made(model: TdtModel, **options: int) -> GpuDecoder:
        given = registry.options("decoder", request.param, {"cache_dir": str(tmp_path), **options})
        decoder: GpuDecoder = registry.load("decoder", request.param)(model, given, ShapePlan((), 1))
        return decoder

    return made


@pytest.mark.parametrize("search", BIASES)
def test_same_labels_as_the_host_driven_search(search: str, build: Build) -> None:
    model = full_size()
    biased(model, *BIASES[search])
    decoder = build(model)
    for batch, frames in ((1, 0), (1, 1), (1, 125), (5, 40), (64, 40), (2, 3000)):
        encoded = ragged(model, batch, frames)
        check_same(model, encoded, decoder.decode(encoded))


def test_bfloat16(build: Build) -> None:
    model = full_size(torch.bfloat16)
    encoded = ragged(model, 8, 125)
    margin_of_bfloat16 = 8  # three bits fewer
    check_same(model, encoded, build(model).decode(encoded), margin_of_bfloat16)


def test_more_utterances_than_slots_wait_on_the_device(build: Build) -> None:
    model = full_size()
    decoder = build(model, slots=3)
    encoded = ragged(model, 20, 60)
    check_same(model, encoded, decoder.decode(encoded))
    assert decoder.evidence()["host_syncs"] == 1


@pytest.mark.parametrize("chunk", [1, 3, 24])
def test_streams_go_on_where_they_stopped(chunk: int, build: Build) -> None:
    model = full_size()
    check_chunks(model, build(model), chunk)


def test_the_same_call_twice_is_bit_for_bit_the_same(build: Build) -> None:
    model = full_size()
    decoder = build(model)
    encoded = ragged(model, 32, 60)
    first, second = decoder.decode(encoded), decoder.decode(encoded)
    assert first.hypotheses == second.hypotheses
    assert torch.equal(first.state.rows[:, :-8], second.state.rows[:, :-8])


def test_one_graph_serves_every_shape_without_the_host_in_the_loop() -> None:
    model = full_size()
    decoder = conditional_graph.build(model, ConditionalGraph(), ShapePlan((), 1))
    for batch, frames in ((2, 40), (130, 10), (1, 300)):
        decoder.decode(ragged(model, batch, frames))
    evidence = decoder.evidence()
    assert evidence["conditional_nodes"] == 1
    assert evidence["graph_builds"] == 1
    assert evidence["host_round_trips_in_loop"] == 0
    assert evidence["host_syncs"] == evidence["calls"] == 3
    assert evidence["joint_steps"] > 3


def test_the_persistent_kernel_is_launched_once_with_all_weights_resident() -> None:
    model = full_size()
    decoder = megakernel.build(model, Megakernel(), ShapePlan((), 1))
    decoder.decode(ragged(model, 2, 40))
    evidence = decoder.evidence()
    assert evidence["host_syncs"] == evidence["calls"] == 1
    assert evidence["launches_per_call"] == 1
    assert evidence["resident_weight_bytes"] > 20_000_000
