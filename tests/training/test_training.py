"""A run learns, ends with its budget, resumes, and exports what the product loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import ExitCode, UnavailableError, UsageError
from training.__main__ import main
from training.data import Corpus
from training.export import WEIGHTS, export, load_weights
from training.model import Trainee, encoded_frames
from training.train import Progress, Recipe, Run, learning_rate
from variants.models.embedded_weights import load_embedded
from variants.models.parakeet import TdtArchitecture

CPU_RECIPE = Recipe(
    minutes=10.0,
    steps=4,
    batch_s=20.0,
    warm_up_steps=2,
    log_steps=2,
    probe_s=1e6,
    probe_sentences=2,
    device="cpu",
)


@pytest.fixture
def trainee(architecture: TdtArchitecture) -> Trainee:
    torch.manual_seed(0)
    return Trainee(architecture, dropout=0.0, ctc_weight=0.3, sigma=0.0)


def entries(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_learning_rate_warms_up_and_ends_with_the_budget() -> None:
    recipe = Recipe(minutes=1.0, warm_up_steps=10, learning_rate=1e-3, final_rate=1e-5)
    rates = [learning_rate(recipe, Progress(step, step * 0.6)) for step in range(101)]
    assert rates[0] < rates[5] < rates[9]
    assert max(rates) <= 1e-3
    assert rates[-1] == pytest.approx(1e-5)
    assert Progress(7, 30.0).share(recipe) == pytest.approx(0.5)
    assert Progress(7, 0.0).share(replace(recipe, steps=7)) == 1.0


def test_the_encoder_keeps_as_many_frames_as_training_counts(
    trainee: Trainee, architecture: TdtArchitecture
) -> None:
    frames = torch.tensor([1, 7, 8, 9, 100, 257])
    features = torch.randn(len(frames), architecture.feature_bins, 257)
    _, lengths = trainee.encoder(audio_signal=features, length=frames)
    assert lengths.tolist() == encoded_frames(frames, architecture).tolist()


def test_an_export_loads_as_the_embedded_model(
    trainee: Trainee, architecture: TdtArchitecture, corpus: Corpus, tmp_path: Path
) -> None:
    export(trainee, corpus.tokenizer, tmp_path)
    loaded = load_embedded("parakeet_tiny", architecture, tmp_path)
    trained = (trainee.encoder, trainee.prednet, trainee.joint)
    for module, own in zip(loaded.modules, trained, strict=True):
        parameters = dict(own.named_parameters())
        for name, tensor in module.state_dict().items():
            expected = own.state_dict()[name]
            assert torch.equal(tensor, expected.half().float() if name in parameters else expected), name
    assert json.loads((tmp_path / "config.json").read_text())["architecture"]["d_model"] == 96


def test_exported_weights_come_back_and_strange_ones_are_refused(
    trainee: Trainee, architecture: TdtArchitecture, corpus: Corpus, tmp_path: Path
) -> None:
    export(trainee, corpus.tokenizer, tmp_path)
    other = Trainee(architecture, dropout=0.0, ctc_weight=0.3, sigma=0.0)
    load_weights(other, tmp_path / WEIGHTS)
    expected = trainee.state_dict()["joint.enc.weight"].half().float()
    assert torch.equal(other.state_dict()["joint.enc.weight"], expected)
    with pytest.raises(UsageError, match="no such weights"):
        load_weights(other, tmp_path / "absent.safetensors")
    deeper = Trainee(replace(architecture, layers=4), dropout=0.0, ctc_weight=0.3, sigma=0.0)
    with pytest.raises(UsageError, match="does not fit"):
        load_weights(deeper, tmp_path / WEIGHTS)


def test_a_run_ends_with_its_steps_resumes_and_logs(
    corpus: Corpus, architecture: TdtArchitecture, tmp_path: Path
) -> None:
    Run(corpus, tmp_path, CPU_RECIPE, architecture).train()
    assert entries(tmp_path)[-1]["step"] == 4
    assert (tmp_path / "export" / WEIGHTS).is_file()
    more = Run(corpus, tmp_path, replace(CPU_RECIPE, steps=6), architecture)
    more.resume()
    more.train()
    log = entries(tmp_path)
    assert [entry["step"] for entry in log] == [2, 4, 4, 6, 6]
    assert log[-1]["elapsed_s"] > log[1]["elapsed_s"]
    assert all(entry["wer"] >= 0 for entry in log if "wer" in entry)


def test_resuming_without_a_checkpoint_is_refused(
    corpus: Corpus, architecture: TdtArchitecture, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--resume"):
        Run(corpus, tmp_path, CPU_RECIPE, architecture).resume()


@pytest.mark.slow
def test_a_small_model_learns_on_the_cpu(
    corpus: Corpus, architecture: TdtArchitecture, tmp_path: Path
) -> None:
    few = replace(corpus, offsets=corpus.offsets[:12], lengths=corpus.lengths[:12], texts=corpus.texts[:12])
    recipe = replace(
        CPU_RECIPE, steps=60, learning_rate=2e-3, warm_up_steps=20, dropout=0.0, augment=False, log_steps=10
    )
    Run(few, tmp_path, recipe, architecture).train()
    losses = [entry["tdt"] for entry in entries(tmp_path) if "tdt" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Recipe(device="auto").resolved_device() == torch.device("cpu")
    with pytest.raises(UnavailableError, match="--device"):
        Recipe(device="cuda").resolved_device()


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path)]) is ExitCode.USAGE
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path)]) is ExitCode.UNAVAILABLE
