"""Other engines over the embedded model's weights: the same words, and what they cannot be asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.errors import UnavailableError, UsageError
from harness.measure.wer import count_errors
from harness.protocols import Segment, Transcript
from harness.spans import SpanRecorder
from tests.variants.eager_parts import eager_parts
from training.evaluate import conditions, render
from variants import registry
from variants.batching.types import Inference
from variants.models.nemo_model import nemo_model
from variants.models.onnx_layouts import LAYOUTS
from variants.models.options import ModelOptions

PEERS = ("nemo_transcribe", "onnx_asr", "sherpa_onnx")
SENTENCES = (
    "my order number is four seven one nine",
    "please turn the lights off in the kitchen",
    "call me back on tuesday",
    "yes that is correct",
    "show me the agenda for tomorrow",
)
OWN_FEATURES = {"sherpa_onnx": 0.25}
"""Share of words that may be wrong where features are not those that the model was trained on."""
SHORT = Segment(np.zeros(200, np.float32), 16_000, 0.0)


def built(
    name: str, weights: str = "embedded", given: dict[str, object] | None = None, **more: str
) -> Inference:
    pytest.importorskip(
        name if name in LAYOUTS else "nemo", reason=f"needs the extra {name.replace('_', '-')}"
    )
    options = registry.options("model", name, given or {})
    asked = ModelOptions(name, weights, options=options, **{"device": "cpu", **more})  # type: ignore[arg-type]
    made: Inference = registry.load("model", name)(asked)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each reads: the embedded weights, or a folder that its user would have exported."""
    pytest.importorskip("onnx", reason="exporting needs it")
    model, found = nemo_model("embedded"), {"nemo_transcribe": "embedded"}
    for layout, write in LAYOUTS.items():
        found[layout] = str(tmp_path_factory.mktemp(layout))
        write(model.asr, Path(found[layout]))
    return found


@pytest.fixture(scope="module")
def speech() -> list[Segment]:
    clean = conditions()["training voices"]
    return [render(text, clean, number) for number, text in enumerate(SENTENCES)]


@pytest.fixture(scope="module")
def ours(speech: list[Segment]) -> Transcript:
    model = registry.load("model", "parakeet_tiny")(ModelOptions("parakeet_tiny", "embedded", device="cpu"))
    (transcript,) = eager_parts(model).transcribe([speech], SpanRecorder())
    return transcript


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_hears_the_same_words_in_a_span_of_its_own(
    name: str, weights: dict[str, str], speech: list[Segment], ours: Transcript
) -> None:
    peer = built(name, weights[name])
    assert isinstance(peer, Inference)
    spans = SpanRecorder()
    found, nothing, too_short = peer.transcribe([speech, [], [SHORT]], spans)
    errors = count_errors(ours.text, found.text)
    assert errors.total <= OWN_FEATURES.get(name, 0.0) * errors.words, found.text
    assert (nothing.text, nothing.hypotheses, too_short.text) == ("", (), "")
    assert [span.name for span in spans.spans] == ["engine", "text"]
    evidence = peer.evidence()
    assert evidence["segments"] == len(speech) + 1
    assert len(evidence["model"]["weights_hash"]) == 64
    assert all(evidence["model"]["packages"].values())


def test_what_was_spoken_is_what_all_of_them_are_held_to(ours: Transcript) -> None:
    assert count_errors(" ".join(SENTENCES), ours.text).total <= 2


def test_nemo_s_tokens_are_ours(speech: list[Segment], ours: Transcript) -> None:
    (found,) = built("nemo_transcribe").transcribe([speech], SpanRecorder())
    assert [each.tokens for each in found.hypotheses] == [each.tokens for each in ours.hypotheses]


def test_what_is_exported_once_is_found_again_and_nobody_s_process_holds_torch(tmp_path: Path) -> None:
    """Seconds, most of them NeMo's import in the process that exports."""
    built("onnx_asr", given={"cache_dir": str(tmp_path)})
    (export,) = tmp_path.iterdir()
    code = (
        "import sys; from variants import registry; from variants.models.options import ModelOptions; "
        f"options = registry.options('model', 'onnx_asr', {{'cache_dir': {str(tmp_path)!r}}}); "
        "registry.load('model', 'onnx_asr')(ModelOptions('onnx_asr', 'embedded', options=options)); "
        "print(sorted({'torch', 'nemo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == [export]


@pytest.mark.parametrize("name", PEERS)
def test_what_a_peer_cannot_do_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"model={name} needs trained weights"):
        built(name, "synthetic")
    with pytest.raises(UsageError, match=r"model\.precision=bf16"):
        built(name, precision="bf16")
    with pytest.raises(UsageError, match=r"model\.weights=.*nothing"):
        built(name, str(tmp_path / "nothing.nemo"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ONNX graph in it"):
        built(name, str(tmp_path))
    (tmp_path / "encoder.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=f"model.weights={tmp_path}: {name.split('_')[0]}"):
        built(name, str(tmp_path))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_peer_of_the_host_says_so(name: str) -> None:
    with pytest.raises(UnavailableError, match=r"model\.device=cuda"):
        built(name, device="cuda")


def test_a_peer_has_no_live_streams() -> None:
    with pytest.raises(UnavailableError, match="no live streams"):
        built("nemo_transcribe").open_stream()
