"""One kernel's convolutions are those of the passes it replaces."""

from __future__ import annotations

import pytest
import torch

from variants.encoder.subsampling import begin_subsampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "frames", "bins", "channels"),
    [(2, 1, 32, 8), (3, 8, 32, 24), (3, 97, 128, 256), (2, 1000, 80, 176)],
)
def test_every_output_is_that_of_the_passes(
    dtype: torch.dtype, rows: int, frames: int, bins: int, channels: int
) -> None:
    from variants.encoder import first_convolutions

    generator = torch.Generator("cuda").manual_seed(frames)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    weights = (normal(9, channels), normal(channels), normal(9, channels), normal(channels))
    x, lengths = normal(rows, frames, bins).to(dtype), torch.linspace(frames, 0, rows, device="cuda").long()
    found = first_convolutions.begin_subsampling(x, lengths, *weights)
    exact = begin_subsampling(x.double(), lengths, *(each.double() for each in weights))
    assert found.shape == exact.shape
    # The one rounding to the type, and none of what lies between the convolutions.
    difference = (found.double() - exact).abs() / exact.abs().clamp(min=1.0)
    assert float(difference.max()) <= torch.finfo(dtype).eps * (1 if dtype != torch.float32 else 64)
