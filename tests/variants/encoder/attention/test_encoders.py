"""Whisper's encoders: openai-whisper's own, and our layers and graphs held to it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.errors import InvalidMeasurementError, UnavailableError, UsageError
from harness.protocols import FeatureBatch, ShapePlan, silent
from tests.variants.encoder.parts import DirectCall, DirectRecorder
from tests.variants.models.whisper.parts import SMALL, model
from variants.decoder.attention.capture import Uncaptured
from variants.decoder.attention.cpu_synced import CpuSyncedDecoder
from variants.decoder.attention.step_graph import StepGraphDecoder
from variants.decoder.options import StepGraph
from variants.encoder.attention.compiled import CompiledEncoder, build, forward_of, probe
from variants.encoder.attention.eager import EagerEncoder
from variants.encoder.attention.fused import FusedEncoder
from variants.encoder.attention.trimmed import TrimmedEncoder
from variants.encoder.compiled import Forward
from variants.encoder.options import Compiled, Trimmed


def test_the_eager_encoder_is_openai_whisper_s() -> None:
    made = model()
    batch = probe(2, 80)
    found = EagerEncoder(made).encode(batch)
    with torch.inference_mode():
        expected = made.modules.encoder(torch.from_numpy(np.asarray(batch.values)))
    assert torch.equal(found.values, expected)
    assert found.lengths.tolist() == [1500, 1500]


def test_our_layers_compute_what_openai_whisper_s_do() -> None:
    made = model(size=dataclasses.replace(SMALL, n_audio_layer=2))
    batch = probe(2, 80)
    with torch.inference_mode():
        found = FusedEncoder(made, lambda function: function)(torch.from_numpy(np.asarray(batch.values)))
    torch.testing.assert_close(found, EagerEncoder(made).encode(batch).values, atol=1e-4, rtol=1e-4)


def test_batches_are_filled_up_split_and_counted() -> None:
    made = model()
    encoder = CompiledEncoder(made, Compiled(backend="graph"), 2, DirectRecorder(), silent)
    encoder.verify(silent)
    batch = probe(3, 80)
    found = encoder.encode(batch)
    torch.testing.assert_close(found.values, EagerEncoder(made).encode(batch).values, atol=1e-4, rtol=1e-4)
    kept = found.values.clone()
    encoder.encode(FeatureBatch(np.zeros((2, 80, 3000), np.float32), np.array([3000, 3000])))
    assert torch.equal(found.values, kept)  # what left is not overwritten
    evidence = encoder.evidence()
    assert evidence["batches"] == {"1": 1, "2": 2}
    assert evidence["not_engaged"] is None


class StaleRecorder(DirectRecorder):
    """Its calls leave what was there: what a graph does whose inputs have moved."""

    def record(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> DirectCall:
        return super().record(forward, features.clone(), lengths)


def test_a_wrong_encoder_is_refused() -> None:
    encoder = CompiledEncoder(model(), Compiled(backend="graph"), 1, StaleRecorder(), silent)
    with pytest.raises(InvalidMeasurementError, match=r"encoder=compiled: batch 1 \(float32\) differs"):
        encoder.verify(silent)


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(UnavailableError, match="use a GPU"):
        build(model(), Compiled(), ShapePlan((30.0,), 1))
    with pytest.raises(UsageError, match="choose graph, inductor or fused"):
        forward_of(model(), Compiled(backend="best"))


@pytest.mark.parametrize(("sound_s", "frames"), [(0.5, 300), (3.0, 500), (3.01, 600), (29.0, 3000)])
def test_a_trimmed_window_keeps_its_sound_and_a_margin(sound_s: float, frames: int) -> None:
    made = model()
    encoder = TrimmedEncoder(made, Trimmed(margin_s=2.0, granule_s=1.0))
    values = np.asarray(probe(2, 80).values)
    found = encoder.encode(FeatureBatch(values, np.array([10, round(100 * sound_s)])))
    assert found.values.shape == (2, frames // 2, made.size.n_audio_state)
    assert found.lengths.tolist() == [frames // 2] * 2
    evidence = encoder.evidence()
    assert evidence["frames"] == {str(frames): 1}
    assert (evidence["not_engaged"] is None) == (frames < 3000)
    untrimmed = EagerEncoder(made).encode(FeatureBatch(values, np.array([10, 10]))).values
    if frames == 3000:
        torch.testing.assert_close(found.values, untrimmed, atol=1e-4, rtol=1e-4)


def test_a_decoder_hears_trimmed_windows_of_any_length_one_after_another() -> None:
    made = model(max_tokens=8)
    encoder, decoder = TrimmedEncoder(made, Trimmed()), CpuSyncedDecoder(made, 2)
    values = np.asarray(probe(1, 80).values)
    batches = [FeatureBatch(values, np.array([frames])) for frames in (900, 100, 900)]
    long, short, again = (decoder.search(encoder.encode(batch)) for batch in batches)
    assert long == again
    assert short == CpuSyncedDecoder(made, 2).search(encoder.encode(batches[1]))
    captured = StepGraphDecoder(made, StepGraph(), 1, Uncaptured(), silent)
    with pytest.raises(UsageError, match="decoder=cpu_synced with encoder=trimmed"):
        captured.search(encoder.encode(batches[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["graph", "inductor", "fused"])
def test_captured_batches_compute_what_openai_whisper_computes(backend: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    made = model(device="cuda", precision="fp16", size=dataclasses.replace(SMALL, n_audio_layer=2))
    encoder = build(made, Compiled(backend=backend), ShapePlan((30.0,), 3))  # type: ignore[arg-type]
    batch = probe(5, 80)
    expected = EagerEncoder(made).encode(batch).values.float()
    for _ in range(2):
        found = encoder.encode(batch).values.float()
        assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.999
    assert encoder.evidence()["captures_after_build"] == 0
