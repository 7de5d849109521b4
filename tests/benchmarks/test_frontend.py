"""The benchmark of the front end's stages, on the CPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import frontend
from harness.errors import ExitCode, InvalidMeasurementError

CPU = torch.device("cpu")


def test_every_stage_is_timed_at_every_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "times.json"
    sizes = ("--batches", "1", "2", "--length", "0.5", "--rounds", "2", "--host-up-to", "1")
    assert frontend.main([*sizes, "--device", "cpu", "--json", str(file)]) == ExitCode.DONE
    found = json.loads(file.read_text())
    titles = [stage.name for stage in frontend.stages(CPU)]
    assert [row["panel"] for row in found["trials"][::2]] == [f"Front end: {title}" for title in titles]
    assert [row["size"] for row in found["trials"]] == [1, 2] * len(titles)
    for row in found["trials"]:
        samples = row["contenders"]["device"]["samples"]
        assert samples["real_time"][0] == pytest.approx(0.5 * row["size"] / samples["call_s"][0])
        assert row["floor_s"] > 0
        on_host = row["size"] == 1 and row["panel"].split(": ")[1] not in ("upload", "denoise, spectral_gate")
        assert ("host, one core" in row["contenders"]) == on_host
    printed = capsys.readouterr().out
    assert "floor" in printed and "real_time" in printed


def test_a_stage_whose_output_is_another_s_is_withheld() -> None:
    resample = next(stage for stage in frontend.stages(CPU) if stage.name == "resample")
    wrong = dataclasses.replace(resample, device=lambda samples: resample.device(samples).flip(1))
    trial = frontend.trial(wrong, frontend.speech_in_noise(1, 0.5, wrong.rate), CPU, 1e9, compare_host=False)
    with pytest.raises(InvalidMeasurementError, match=r"resample: .* away from what it is held to"):
        trial.contenders["device"].agree()
