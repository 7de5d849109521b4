"""The benchmark of encoders alone, with the one that needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ExitCode
from harness.report.parts import read_parts
from variants.encoder import bench

TINY = ("--model", "parakeet_tiny", "--layers", "1", "--precision", "fp32", "--encoders", "eager")
SIZES = ("--lengths", "0.5", "1", "--batches", "1", "2", "--rounds", "3")


def test_every_length_and_batch_is_timed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "times.json"
    assert bench.main([*TINY, *SIZES, "--json", str(file)]) == ExitCode.DONE
    found = json.loads(file.read_text())
    assert [(row["batch"], row["length_s"]) for row in found["rows"]] == [
        (1, 0.5),
        (1, 1.0),
        (2, 0.5),
        (2, 1.0),
    ]
    assert all(len(row["encoders"]["eager"]["samples_s"]) == 3 for row in found["rows"])
    assert found["built"]["eager"]["weights_bytes"] > 0
    assert found["provenance"]["layers"] == 1
    assert capsys.readouterr().out.count("p50 ms") == 4
    assert [panel.title for panel in read_parts(file)] == ["Encoders, batch 1", "Encoders, batch 2"]


def test_an_interruption_keeps_the_lengths_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_encoders, calls = bench.time_encoders, []

    def twice(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return time_encoders(*given)

    monkeypatch.setattr(bench, "time_encoders", twice)
    with pytest.raises(KeyboardInterrupt):
        bench.main([*TINY, *SIZES, "--json", str(tmp_path / "times.json")])
    assert len(json.loads((tmp_path / "times.json").read_text())["rows"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_graphs_without_a_gpu_are_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "parakeet_tiny"]) == ExitCode.UNAVAILABLE
    assert "--encoders eager" in capsys.readouterr().err
