"""What a user may say about a model."""

from __future__ import annotations

import pytest
import torch

from harness.errors import UnavailableError
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
