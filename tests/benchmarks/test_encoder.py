"""The benchmark of encoders alone, with the one that needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import encoder
from benchmarks.models import random_model
from harness.errors import ExitCode, InvalidMeasurementError
from harness.report.benches import read_bench
from variants.encoder.bucketed import on_host
from variants.encoder.eager import EagerEncoder
from variants.encoder.parity import States, probe
from variants.models.options import ModelOptions

TINY = ("--model", "parakeet_tiny", "--layers", "1", "--precision", "fp32", "--encoders", "eager")
SIZES = ("--lengths", "0.5", "1", "--batches", "1", "2", "--rounds", "3")


def test_every_length_and_batch_is_timed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "times.json"
    assert encoder.main([*TINY, *SIZES, "--json", str(file)]) == ExitCode.DONE
    found = json.loads(file.read_text())
    assert [(row["panel"], row["size"]) for row in found["trials"]] == [
        ("Encoders, batch 1", 0.5),
        ("Encoders, batch 1", 1.0),
        ("Encoders, batch 2", 0.5),
        ("Encoders, batch 2", 1.0),
    ]
    assert all(len(row["contenders"]["eager"]["samples"]["call_s"]) == 3 for row in found["trials"])
    assert all(row["agreement"]["eager"]["cosine"] == pytest.approx(1.0) for row in found["trials"])
    assert found["built"]["eager"]["weights_bytes"] > 0
    assert (found["layers"], found["provenance"]["commit"] is None) == (1, False)
    assert capsys.readouterr().out.count("eager") == 4
    assert [panel.title for panel in read_bench(file)] == ["Encoders, batch 1", "Encoders, batch 2"]


def test_states_that_differ_are_not_timed() -> None:
    chosen = ModelOptions("parakeet_tiny", device="cpu", layers=1)
    model = random_model(chosen, torch.device("cpu"))
    batch = probe(1, 40, 40, model.feature_bins)
    right = on_host(EagerEncoder(model).encode(batch))
    wrong = States(np.roll(right.values, 1, axis=1), right.lengths)
    assert encoder.Encoding("eager", model, EagerEncoder(model), batch, right).agree()["lengths_equal"]
    with pytest.raises(InvalidMeasurementError, match="speed is withheld"):
        encoder.Encoding("eager", model, EagerEncoder(model), batch, wrong).agree()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_graphs_without_a_gpu_are_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    assert encoder.main(["--model", "parakeet_tiny"]) == ExitCode.UNAVAILABLE
    assert "--encoders eager" in capsys.readouterr().err
