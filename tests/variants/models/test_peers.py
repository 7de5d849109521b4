"""Other engines over the embedded model's weights: the same words, and what they cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import UnavailableError, UsageError
from harness.protocols import Segment, Transcript
from harness.spans import SpanRecorder
from tests.variants.eager_parts import eager_parts
from training.evaluate import conditions, render
from variants import registry
from variants.batching.types import Inference
from variants.models.options import ModelOptions

PEERS = ("nemo_transcribe",)
SENTENCES = ("my order number is four seven one nine", "please turn the lights off in the kitchen")
SHORT = Segment(np.zeros(200, np.float32), 16_000, 0.0)


def built(name: str, weights: str = "embedded", **more: str) -> Inference:
    pytest.importorskip(name if name != "nemo_transcribe" else "nemo", reason=f"needs the extra {name}")
    made: Inference = registry.load("model", name)(ModelOptions(name, weights, device="cpu", **more))
    return made


@pytest.fixture(scope="module")
def speech() -> list[Segment]:
    clean = conditions()["training voices"]
    return [render(text, clean, number) for number, text in enumerate(SENTENCES)]


@pytest.fixture(scope="module")
def ours(speech: list[Segment]) -> Transcript:
    model = registry.load("model", "parakeet_tiny")(ModelOptions("parakeet_tiny", "embedded", device="cpu"))
    (transcript,) = eager_parts(model).transcribe([speech], SpanRecorder())
    assert transcript.text == " ".join(SENTENCES)
    return transcript


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_hears_the_same_tokens_in_a_span_of_its_own(
    name: str, speech: list[Segment], ours: Transcript
) -> None:
    peer = built(name)
    assert isinstance(peer, Inference)
    spans = SpanRecorder()
    found, nothing, too_short = peer.transcribe([speech, [], [SHORT]], spans)
    assert found.text == ours.text
    assert [each.tokens for each in found.hypotheses] == [each.tokens for each in ours.hypotheses]
    assert (nothing.text, nothing.hypotheses, too_short.text) == ("", (), "")
    assert [span.name for span in spans.spans] == ["engine", "text"]
    evidence = peer.evidence()
    assert evidence["segments"] == len(speech) + 1
    assert evidence["tokens"] == sum(len(each.tokens) for each in ours.hypotheses)
    assert len(evidence["model"]["weights_hash"]) == 64
    assert all(evidence["model"]["packages"].values())


@pytest.mark.parametrize("name", PEERS)
def test_what_a_peer_cannot_do_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"model={name} needs trained weights"):
        built(name, "synthetic")
    with pytest.raises(UsageError, match=r"model\.precision=bf16"):
        built(name, precision="bf16")
    with pytest.raises(UsageError, match=r"model\.weights=.*nothing"):
        built(name, str(tmp_path / "nothing.nemo"))


def test_a_peer_has_no_live_streams() -> None:
    with pytest.raises(UnavailableError, match="no live streams"):
        built("nemo_transcribe").open_stream()
