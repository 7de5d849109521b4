"""The trained tiny model on real features: the GPU decoders against the host-driven search."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from harness.audio.resample import resample
from harness.corpus.grammar import Grammar
from harness.corpus.speech import VOICES, speak
from harness.protocols import EncoderOutput, FeatureBatch, Segment, ShapePlan
from harness.protocols.options import NoOptions
from tests.variants.decoder.gpu_cases import NEEDS_GPU, check_same
from variants import registry
from variants.encoder import eager
from variants.frontend.config import FeatureConfig
from variants.models import parakeet_tiny
from variants.models.features import LogMel
from variants.models.options import ModelOptions
from variants.models.types import TdtModel

pytestmark = [pytest.mark.gpu, NEEDS_GPU]

RATE = 16_000
SENTENCES = 24


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return parakeet_tiny.build(
        ModelOptions("parakeet_tiny", weights="embedded", device="cuda", precision="fp16")
    )


@pytest.fixture(scope="module")
def encoded(model: TdtModel) -> EncoderOutput:
    """States of sentences of the grammar, each by the next voice of the synthesizer."""
    rng = np.random.default_rng(5)
    grammar = Grammar.load()
    voices = islice(cycle(VOICES.values()), SENTENCES)
    segments = [
        Segment(
            resample(speak(grammar.sentence(rng), voice), sample_rate=RATE, quality="HQ").samples, RATE, 0.0
        )
        for voice in voices
    ]
    features = [each.values for each in LogMel(FeatureConfig(), RATE)(segments)]
    lengths = np.array([each.shape[1] for each in features])
    values = np.zeros((len(features), features[0].shape[0], lengths.max()), dtype=np.float32)
    for row, each in zip(values, features, strict=True):
        row[:, : each.shape[1]] = each
    encoder = eager.build(model, NoOptions(), ShapePlan((), len(features)))
    return encoder.encode(FeatureBatch(values, lengths))


@pytest.mark.parametrize("decoder", ["conditional_graph", "megakernel"])
def test_same_labels_on_real_speech(
    decoder: str, model: TdtModel, encoded: EncoderOutput, tmp_path: Path
) -> None:
    options = registry.options("decoder", decoder, {"cache_dir": str(tmp_path)})
    found = registry.load("decoder", decoder)(model, options, ShapePlan((), 1)).decode(encoded)
    assert sum(len(hypothesis.tokens) for hypothesis in found.hypotheses) > 5 * SENTENCES
    check_same(model, encoded, found)
