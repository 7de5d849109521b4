from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor.async_compile import AsyncCompile

from harness.errors import InvalidMeasurementError, UnavailableError, UsageError
from harness.protocols import Encoder, FeatureBatch, ShapePlan
from harness.protocols.options import NoOptions
from tests.variants.encoder.parts import DeafRecorder, DirectRecorder, small_model
from variants.encoder import compiled, eager
from variants.encoder.bucketed import BucketedEncoder
from variants.encoder.options import Compiled
from variants.encoder.parity import LIMITS, Agreement, States, compare, probe
from variants.models.types import TdtModel

PLAN = ShapePlan((0.5, 1.0, 2.0), 4, (0.3, 0.4, 0.8, 1.1, 1.8))
PLAIN = Compiled(backend="graph", longest_s=2.0)  # nothing here needs a compiler


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return small_model()


@pytest.fixture(scope="module")
def shared(model: TdtModel) -> BucketedEncoder:
    """For tests that read no counts."""
    return bucketed(model)


@pytest.fixture
def encoder(model: TdtModel) -> BucketedEncoder:
    return bucketed(model)


def bucketed(model: TdtModel, plan: ShapePlan = PLAN, **options: Any) -> BucketedEncoder:
    chosen = {"buckets": 3, **options}
    return compiled.build_with(model, replace(PLAIN, **chosen), plan, DirectRecorder())


def agreement(model: TdtModel, encoder: Encoder, batch: FeatureBatch) -> Agreement:
    found, expected = encoder.encode(batch), eager.build(model, NoOptions(), PLAN).encode(batch)
    assert found.values.shape == expected.values.shape
    assert found.values.dtype == expected.values.dtype
    return compare(
        States(expected.values.numpy(), expected.lengths.numpy()),
        States(found.values.numpy(), found.lengths.numpy()),
    )


def test_every_shape_is_told_while_it_is_captured_and_compared(model: TdtModel) -> None:
    heard: list[tuple[str, int, int]] = []
    plan = replace(PLAN, progress=lambda what, done=0, total=0: heard.append((what, done, total)))
    encoder = bucketed(model, plan, cost="measured")
    encoder.verify("compiled", progress=plan.progress)
    shapes = len(encoder.evidence()["shapes"])
    assert [step[1:] for step in heard if step[0] == "measuring what lengths cost"] == [
        (done, 5) for done in range(5)
    ]
    for phase in ("compiling and capturing", "comparing each shape"):
        steps = [step[1:] for step in heard if step[0].startswith(phase)]
        assert steps == [(done, shapes) for done in range(shapes)]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("frames", [1, 7, 31, 88, 120, 200])
def test_any_batch_encodes_as_eagerly(
    model: TdtModel, shared: BucketedEncoder, rows: int, frames: int
) -> None:
    batch = probe(rows, max(1, frames // 3), frames, model.feature_bins)
    found = agreement(model, shared, batch)
    assert found.lengths_equal
    assert found.cosine > 0.999999
    assert found.relative < 1e-5


def test_what_an_earlier_longer_batch_left_in_the_buffers_is_not_heard(
    model: TdtModel, encoder: BucketedEncoder
) -> None:
    short = probe(1, 20, 20, model.feature_bins, seed=1)
    before = encoder.encode(short).values
    encoder.encode(probe(4, 200, 200, model.feature_bins, seed=2))
    encoder.encode(probe(4, 40, 40, model.feature_bins, seed=3))
    assert torch.equal(encoder.encode(short).values, before)


def test_an_output_outlives_the_next_call(model: TdtModel, encoder: BucketedEncoder) -> None:
    first = encoder.encode(probe(1, 30, 30, model.feature_bins, seed=1))
    kept = first.values.clone()
    encoder.encode(probe(1, 30, 30, model.feature_bins, seed=2))
    assert torch.equal(first.values, kept)
    assert first.values.is_contiguous()


def test_every_shape_is_prepared_once_and_counted(model: TdtModel, encoder: BucketedEncoder) -> None:
    built = encoder.evidence()["captures"]
    for frames in (10, 90, 200, 10):
        encoder.encode(probe(1, frames, frames, model.feature_bins))
    evidence = encoder.evidence()
    assert evidence["captures"] == built == len(evidence["shapes"])
    assert evidence["captures_after_build"] == 0
    assert evidence["replays"] == evidence["calls"] == 4
    assert evidence["profile_switches"] == 3
    assert sum(evidence["runs_by_profile"].values()) == 4
    assert 0.0 < evidence["padding_share"] < 1.0
    assert evidence["not_engaged"] is None


def test_a_capture_after_the_build_voids_the_run(model: TdtModel) -> None:
    recorder = DirectRecorder()
    encoder = compiled.build_with(model, replace(PLAIN, buckets=2), PLAN, recorder)
    recorder.record(lambda x, lengths: (x, lengths), torch.zeros(1, 32, 8), torch.zeros(1))
    evidence = encoder.evidence()
    assert evidence["captures_after_build"] == 1
    assert "after the build" in evidence["not_engaged"]


def test_a_wide_batch_is_split_and_counted(model: TdtModel, encoder: BucketedEncoder) -> None:
    encoder.encode(probe(9, 50, 50, model.feature_bins))
    evidence = encoder.evidence()
    assert evidence["split_batches"] == 1
    assert evidence["replays"] == 3


def test_a_segment_longer_than_every_shape_is_served_and_voids_the_run(
    model: TdtModel, encoder: BucketedEncoder
) -> None:
    batch = probe(1, 300, 300, model.feature_bins)
    assert agreement(model, encoder, batch).relative == 0.0
    evidence = encoder.evidence()
    assert evidence["outside"] == 1
    assert "longest_s" in evidence["not_engaged"]
    assert "3.00 s" in evidence["not_engaged"]


def test_the_shapes_of_the_warm_up_are_inside(model: TdtModel, encoder: BucketedEncoder) -> None:
    for edge_s in PLAN.buckets_s:
        encoder.encode(probe(PLAN.max_batch, round(edge_s * 100), round(edge_s * 100), model.feature_bins))
    assert encoder.evidence()["not_engaged"] is None


@pytest.mark.parametrize("shape", [(0, 32, 10), (2, 32, 0)])
def test_nothing_encodes_to_nothing(encoder: BucketedEncoder, shape: tuple[int, int, int]) -> None:
    batch = FeatureBatch(np.zeros(shape, np.float32), np.zeros(shape[0], np.int64))
    assert encoder.encode(batch).values.shape == (shape[0], 0, 48)


def test_parity_is_kept_for_every_shape_and_leaves_no_counts(encoder: BucketedEncoder) -> None:
    encoder.verify("compiled")
    evidence = encoder.evidence()
    assert set(evidence["parity"]) == set(evidence["shapes"])
    assert all(shape["cosine"] > 0.9999 for shape in evidence["parity"].values())
    assert evidence["calls"] == 0
    assert evidence["not_engaged"] is None


def test_labels_are_compared_for_every_profile(encoder: BucketedEncoder) -> None:
    encoder.verify("compiled", token_agreement=0.99)
    evidence = encoder.evidence()
    assert set(evidence["label_agreement_by_profile"]) == set(evidence["runs_by_profile"])
    assert all(count >= 50 for count in evidence["labels_compared_by_profile"].values())


def test_other_labels_are_invalid_and_name_the_bucket(encoder: BucketedEncoder) -> None:
    """No two searches agree on more than all labels: a limit above 1 shows that the check can fail."""
    with pytest.raises(InvalidMeasurementError, match=r"bucket \d .* other labels .*token_agreement"):
        encoder.verify("compiled", token_agreement=1.01)


def test_a_wrong_mask_is_invalid_and_names_the_bucket(model: TdtModel) -> None:
    wrong = compiled.build_with(model, replace(PLAIN, buckets=2), PLAN, DeafRecorder())
    with pytest.raises(
        InvalidMeasurementError, match=r"encoder=compiled: bucket \d \(batch \d, .* float32\)"
    ):
        wrong.verify("compiled")


def test_a_measured_cost_places_the_buckets(model: TdtModel) -> None:
    evidence = bucketed(model, cost="measured").evidence()
    assert evidence["profiles"][-1]["max"] >= 200


def test_the_cost_is_measured_in_what_will_run(model: TdtModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    forward = compiled._forward

    def graph_instead(model: TdtModel, backend: str, chosen: Any, longest: int) -> compiled.Forward:
        asked.append(backend)
        return forward(model, "graph", chosen, longest)

    monkeypatch.setattr(compiled, "_forward", graph_instead)
    bucketed(model, cost="measured", backend="fused")
    assert asked == ["fused", "fused"]


def test_captured_batch_sizes_can_be_chosen(model: TdtModel) -> None:
    shapes = bucketed(model, batches=(1, 3)).evidence()["shapes"]
    assert {shape.split("x")[0] for shape in shapes} == {"1", "3"}


@pytest.mark.parametrize("options", [{"batches": (5,)}])
def test_impossible_shapes_are_refused(model: TdtModel, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        bucketed(model, **options)


def test_without_a_gpu_it_is_unavailable(model: TdtModel) -> None:
    with pytest.raises(UnavailableError, match="GPU"):
        compiled.build(model, Compiled(), PLAN)


def test_layers_compiled_one_by_one_share_weights_and_answer_alike(model: TdtModel) -> None:
    """Through Dynamo alone: what inductor would compile, without a compiler."""
    network: Any = model.encoder
    with compiled.compilations(2):
        twin = compiled.with_compiled_layers(network, backend="eager", mode=None)
        features, lengths = torch.randn(2, 32, 64), torch.tensor([64, 40])
        with torch.inference_mode():
            found, expected = (
                twin.forward_internal(features, lengths),
                network.forward_internal(features, lengths),
            )
    torch.testing.assert_close(found[0], expected[0])
    assert twin.layers[0].norm_out.weight is network.layers[0].norm_out.weight
    assert not any(isinstance(layer, torch._dynamo.OptimizedModule) for layer in network.layers)


def test_the_compiler_s_workers_end_with_the_compilations() -> None:
    """They hold gigabytes, and the memory of a run is that of all its processes."""
    with compiled.compilations(1), inductor.patch(compile_threads=2):
        pool: Any = AsyncCompile.process_pool()
        worker = psutil.Process(pool.submit(os.getpid).result())
        between = itertools.takewhile(lambda process: process.pid != os.getpid(), worker.parents())
        processes = [worker, *between]
    _, living = psutil.wait_procs(processes, timeout=10)
    assert [process for process in living if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["graph", "inductor", "fused", "kernels", "best"])
def test_graphs_answer_as_the_eager_encoder_does(dtype: torch.dtype, backend: str) -> None:
    on_gpu = small_model("cuda", dtype)
    # Each shape is a compilation, seconds long.
    few = Compiled(backend=backend, longest_s=2.0, buckets=1, batches=(1, 4))
    encoder = compiled.build(on_gpu, few, PLAN)
    batch = probe(3, 20, 150, 32)
    # What the graphs read must still be there once memory that nobody holds has been written to.
    rubble = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(64)]
    found, expected = encoder.encode(batch), eager.build(on_gpu, NoOptions(), PLAN).encode(batch)
    assert torch.equal(found.lengths, expected.lengths)
    found_states, expected_states = (
        States(x.values.float().cpu().numpy(), x.lengths.cpu().numpy()) for x in (found, expected)
    )
    assert compare(expected_states, found_states).within(LIMITS[str(dtype).removeprefix("torch.")])
    assert encoder.evidence()["captures_after_build"] == 0
    assert len(rubble) == 64
