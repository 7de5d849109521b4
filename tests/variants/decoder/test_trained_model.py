"""The trained tiny model on real features: the GPU decoders against the host-driven search."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from harness.corpus.grammar import Grammar
from harness.corpus.speech import VOICES, speak
from harness.protocols import EncoderOutput, Segment, ShapePlan
from harness.protocols.options import NoOptions
from tests.harness.audio.recordings import resample
from tests.variants.decoder.gpu_cases import NEEDS_GPU, check_same
from variants import registry
from variants.encoder import eager
from variants.models import parakeet_tiny
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
    encoder = eager.build(model, NoOptions(), ShapePlan((), len(segments)))
    return encoder.encode(model.features(segments))


@pytest.mark.parametrize("decoder", ["conditional_graph", "megakernel"])
def test_same_labels_on_real_speech(
    decoder: str, model: TdtModel, encoded: EncoderOutput, tmp_path: Path
) -> None:
    options = registry.options("decoder", decoder, {"cache_dir": str(tmp_path)})
    found = registry.load("decoder", decoder)(model, options, ShapePlan((), 1)).decode(encoded)
    assert sum(len(hypothesis.tokens) for hypothesis in found.hypotheses) > 5 * SENTENCES
    check_same(model, encoded, found)
