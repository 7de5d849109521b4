"""Other engines over the same windows: their transcripts, and what they cannot be asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UnavailableError, UsageError
from harness.protocols import Segment, Transcript
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE
from tests.variants.models.whisper.parts import EXTRA, SMALL, model, tiny_en
from tests.variants.models.whisper.test_features import sound
from tests.variants.models.whisper.test_windows import inference
from variants import registry
from variants.batching.types import Inference
from variants.models.options import ModelOptions
from variants.models.whisper.architecture import TINY_EN, WhisperArchitecture
from variants.models.whisper.checkpoint import load_weights
from variants.models.whisper.hugging_face import write_hugging_face
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.synthetic import build_synthetic

pytest.importorskip("whisper", reason="needs the extra whisper")

PEERS = ("openai_whisper", "faster_whisper", "transformers_whisper")


def peer(name: str, weights: str, **options: object) -> Inference:
    pytest.importorskip("faster_whisper" if name == "faster_whisper" else "whisper", reason=EXTRA)
    asked = registry.options("model", name, options)
    given = ModelOptions(name=name, weights=weights, device="cpu", options=asked)
    built: Inference = registry.load("model", name)(given)
    return built


HALVES = [Segment(sound(2.6), RATE, 0.0), Segment(sound(5.2)[round(2.6 * RATE) :], RATE, 2.6)]


@pytest.fixture(scope="module")
def ours() -> Transcript:
    """A second of the real model, and another in each peer: nothing smaller is read by all."""
    (transcript,) = inference(model(str(tiny_en()), TINY_EN)).transcribe([HALVES], SpanRecorder())
    return transcript


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """tiny.en as each reads it: Hugging Face's folder is made from CTranslate2's."""
    folder = tmp_path_factory.mktemp("hugging_face")
    write_hugging_face(load_weights(str(tiny_en())), folder)
    return dict.fromkeys(PEERS, str(tiny_en())) | {"transformers_whisper": str(folder)}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_says_of_the_real_tiny_en_what_we_say_in_stages_of_its_own(
    name: str, ours: Transcript, weights: dict[str, str]
) -> None:
    engine = peer(name, weights[name], max_tokens=60)
    assert isinstance(engine, Inference)
    spans = SpanRecorder()
    (found, nothing) = engine.transcribe([HALVES, []], spans)
    assert (found.text, found.hypotheses) == (ours.text, ours.hypotheses)
    assert "quick brown fox" in found.text and "lazy dog" in found.text
    assert nothing.text == ""
    assert [span.name for span in spans.spans] == ["segment", "features", "encoder", "decoder", "text"]
    evidence = engine.evidence()
    assert (evidence["windows"], evidence["windows_at_once"]) == (1, 1)
    assert evidence["tokens"] == len(found.hypotheses[0].tokens) > 5
    assert len(evidence["model"]["weights_hash"]) == 64


@pytest.mark.parametrize("name", PEERS)
def test_what_a_peer_cannot_do_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"model={name} needs real weights"):
        peer(name, "synthetic")
    with pytest.raises(UsageError, match=f"model={name} is given windows"):
        peer(name, "large-v3", long_form="sequential")


def test_openai_whisper_has_no_bfloat16() -> None:
    given = ModelOptions(
        name="openai_whisper", weights="large-v3", precision="bf16", device="cpu", options=WhisperOptions()
    )
    with pytest.raises(UsageError, match=r"model\.precision=bf16"):
        registry.load("model", "openai_whisper")(given)


def test_faster_whisper_says_what_it_reads(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"in which there is a model\.bin"):
        peer("faster_whisper", str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"not a Whisper of CTranslate2"):
        peer("faster_whisper", str(tmp_path))


@pytest.mark.parametrize("name", ["faster_whisper", "transformers_whisper"])
def test_a_peer_that_does_not_hear_the_language_is_given_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=f"give {name} the language"):
        peer(name, str(tmp_path), language=None)


def test_transformers_says_what_it_reads(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="with safetensors"):
        peer("transformers_whisper", str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"config\.json"):
        peer("transformers_whisper", str(tmp_path))


@pytest.mark.parametrize(
    ("size", "given"),
    [
        (SMALL, {}),
        (SMALL, {"timestamps": False, "initial_prompt": "call me"}),
        (replace(SMALL, n_vocab=51_866), {"language": "de"}),
        (replace(SMALL, n_vocab=51_865), {"language": "fr", "task": "translate", "timestamps": False}),
    ],
)
def test_transformers_searches_as_we_do_whatever_is_asked(
    size: WhisperArchitecture, given: dict[str, object], tmp_path: Path
) -> None:
    """Random weights, read back from the folder that they were written to."""
    synthetic = build_synthetic(size, seed=1, tokens_per_speech_s=2.0)
    write_hugging_face(synthetic, tmp_path)
    asked = {"max_tokens": 40, "no_speech_threshold": 1.0, **given}
    (expected,) = inference(model(str(tmp_path), size, **asked)).transcribe([HALVES], SpanRecorder())
    (found,) = peer("transformers_whisper", str(tmp_path), **asked).transcribe([HALVES], SpanRecorder())
    assert found.hypotheses == expected.hypotheses
    assert found.hypotheses[0].tokens


@pytest.mark.slow
def test_transformers_is_given_weights_of_another_form_converted_once(tmp_path: Path) -> None:
    """A process of its own converts them."""
    for _ in range(2):
        engine = peer("transformers_whisper", str(tiny_en()), cache_dir=str(tmp_path), max_tokens=60)
        (entry,) = tmp_path.iterdir()
        assert {"config.json", "model.safetensors"} < {file.name for file in entry.iterdir()}
    (found,) = engine.transcribe([HALVES], SpanRecorder())
    assert "quick brown fox" in found.text


def test_a_peer_has_no_live_streams() -> None:
    with pytest.raises(UnavailableError, match="no live streams"):
        peer("openai_whisper", str(tiny_en())).open_stream()
