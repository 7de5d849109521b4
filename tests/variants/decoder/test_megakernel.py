"""The persistent kernel against the host-driven search, on a GPU."""

from __future__ import annotations

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
    ragged,
)
from variants.decoder import bench, megakernel
from variants.decoder.gpu.decoding import GpuDecoder
from variants.models.types import TdtModel

pytestmark = [pytest.mark.gpu, NEEDS_GPU]


def full_size(dtype: torch.dtype = torch.float16) -> TdtModel:
    return bench.build_model(0, 4.0, dtype, torch.device("cuda", 0))


def build(model: TdtModel, tmp_path: Path, **options: int) -> GpuDecoder:
    return megakernel.build(model, {"cache_dir": str(tmp_path), **options}, ShapePlan((), 1))


@pytest.mark.parametrize("search", BIASES)
def test_same_labels_as_the_host_driven_search(search: str, tmp_path: Path) -> None:
    model = full_size()
    biased(model, *BIASES[search])
    decoder = build(model, tmp_path)
    for batch, frames in ((1, 0), (1, 1), (1, 125), (5, 40), (64, 40), (2, 3000)):
        encoded = ragged(model, batch, frames)
        check_same(model, encoded, decoder.decode(encoded).hypotheses)


def test_bfloat16(tmp_path: Path) -> None:
    model = full_size(torch.bfloat16)
    encoded = ragged(model, 8, 125)
    margin_of_bfloat16 = 8  # three bits fewer
    found = build(model, tmp_path).decode(encoded).hypotheses
    check_same(model, encoded, found, margin_of_bfloat16)


def test_more_utterances_than_slots_need_no_second_launch(tmp_path: Path) -> None:
    model = full_size()
    decoder = build(model, tmp_path, slots=3)
    encoded = ragged(model, 20, 60)
    check_same(model, encoded, decoder.decode(encoded).hypotheses)
    assert decoder.evidence()["calls"] == 1


@pytest.mark.parametrize("chunk", [1, 3, 24])
def test_streams_go_on_where_they_stopped(chunk: int, tmp_path: Path) -> None:
    model = full_size()
    check_chunks(model, build(model, tmp_path), chunk)


def test_the_same_call_twice_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    model = full_size()
    decoder = build(model, tmp_path)
    encoded = ragged(model, 32, 60)
    first, second = decoder.decode(encoded), decoder.decode(encoded)
    assert first.hypotheses == second.hypotheses
    assert torch.equal(first.state.rows[:, :-8], second.state.rows[:, :-8])


def test_evidence_counts_one_wait_per_call_and_all_weights_resident(tmp_path: Path) -> None:
    model = full_size()
    decoder = build(model, tmp_path)
    decoder.decode(ragged(model, 2, 40))
    evidence = decoder.evidence()
    assert evidence["host_syncs"] == evidence["calls"] == 1
    assert evidence["launches_per_call"] == 1
    assert evidence["resident_weight_bytes"] > 20_000_000
