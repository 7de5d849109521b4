"""The benchmark of Whisper's parts alone, with those that need no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import whisper
from harness.errors import ExitCode
from harness.report.benches import read_bench
from tests.variants.models.whisper.parts import SMALL

pytest.importorskip("whisper", reason="needs the extra whisper")

HERE = ("--encoders", "openai", "--decoders", "openai", "cpu_synced", "--precision", "fp32")


def test_parts_are_timed_and_held_to_openai_whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "MODELS", {"whisper_tiny_en": SMALL})
    file = tmp_path / "times.json"
    sizes = ("--model", "whisper_tiny_en", "--batches", "1", "2", "--tokens", "5", "--rounds", "2")
    assert whisper.main([*HERE, *sizes, "--json", str(file)]) == ExitCode.DONE
    found = json.loads(file.read_text())
    assert [(row["panel"].partition(",")[0], row["size"]) for row in found["trials"]] == [
        ("Encoders", 1), ("Decoders", 1), ("Encoders", 2), ("Decoders", 2),
    ]  # fmt: skip
    decoders = found["trials"][3]
    assert decoders["agreement"]["cpu_synced"]["token_agreement"] == 1.0
    samples = decoders["contenders"]["cpu_synced"]["samples"]
    assert samples["steps"] == [5.0, 5.0]
    assert samples["step_s"][0] == pytest.approx(samples["call_s"][0] / 5)
    assert len(read_bench(file)) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_graphs_without_a_gpu_are_unavailable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whisper, "MODELS", {"whisper_tiny_en": SMALL})
    assert whisper.main(["--model", "whisper_tiny_en", "--precision", "fp32"]) == ExitCode.UNAVAILABLE
    assert "--encoders openai" in capsys.readouterr().err
