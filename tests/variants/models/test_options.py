"""What a user may say about a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import UnavailableError
from variants.models import parakeet_tiny
from variants.models.options import ModelOptions, resolve_device, resolve_dtype


def test_auto_is_the_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device(ModelOptions(name="m")).type == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"model\.device=cuda"):
        resolve_device(ModelOptions(name="m", device="cuda"))


def test_precision_is_a_number_type() -> None:
    assert resolve_dtype(ModelOptions(name="m", precision="bf16")) == torch.bfloat16


@pytest.mark.parametrize("weights", ["embedded", "synthetic"])
def test_whoever_waits_hears_where_the_weights_come_from(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where an earlier calibration would be found
    heard: list[str] = []
    chosen = ModelOptions(
        "parakeet_tiny", weights, device="cpu", layers=1, progress=lambda what, *_: heard.append(what)
    )
    parakeet_tiny.build(chosen)
    expected = {
        "embedded": {"loading the embedded weights", "placing the model on cpu"},
        "synthetic": {"drawing weights", "calibrating the label rate", "placing the model on cpu"},
    }
    assert expected[weights] <= set(heard)
