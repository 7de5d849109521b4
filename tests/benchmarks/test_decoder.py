"""The benchmark of decoders alone, on a small transducer and the decoder that needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import decoder
from benchmarks.core import Results, measure
from benchmarks.models import speaking_transducer
from harness.errors import ExitCode, InvalidMeasurementError
from harness.protocols import Hypothesis
from tests.variants.models.small import SMALL
from variants.models.options import ModelOptions
from variants.models.types import TdtModel


@pytest.fixture(scope="module")
def model() -> TdtModel:
    chosen = ModelOptions("decoder_bench", device="cpu", tokens_per_speech_s=3.0)
    return speaking_transducer(chosen, torch.device("cpu"), SMALL)


def test_labels_come_at_the_rate_of_speech(model: TdtModel) -> None:
    trial = decoder.trial(model, batch=8, seconds=10.0, clips=64, names=("cpu_synced",))
    assert float(trial.facts["labels_per_utterance"]) == pytest.approx(30, rel=0.25)
    assert trial.facts["inputs"] == 8


def test_a_decoder_is_timed_after_its_labels_agreed(model: TdtModel, tmp_path: Path) -> None:
    trial = decoder.trial(model, batch=2, seconds=1.0, clips=1, names=("cpu_synced",))
    assert measure(iter([trial]), 2, Results(tmp_path / "times.json", {})) is ExitCode.DONE
    contender = trial.contenders["cpu_synced"]
    assert contender.agree()["identical"] == 8
    assert contender.evidence()["joint_steps"] > 0


def test_other_labels_are_no_tie(model: TdtModel) -> None:
    trial = decoder.trial(model, batch=1, seconds=2.0, clips=1, names=("cpu_synced",))
    contender = trial.contenders["cpu_synced"]
    assert isinstance(contender, decoder.Decoding)
    shifted = [[Hypothesis((7,), (0,), (1,))] for _ in contender.inputs]
    wrong = decoder.Decoding("other", model, contender.decoder, contender.inputs, shifted)
    with pytest.raises(InvalidMeasurementError, match="decoder=other differs"):
        wrong.agree()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    assert decoder.main([]) == ExitCode.UNAVAILABLE
    assert "GPU" in capsys.readouterr().err


def test_a_decoder_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        decoder.main(["--decoders", "beam"])
    assert ended.value.code == ExitCode.USAGE
    assert "no decoder beam" in capsys.readouterr().err
