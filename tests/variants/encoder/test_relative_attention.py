"""One kernel's attention is that of the products it replaces."""

from __future__ import annotations

import pytest
import torch

from variants.encoder.fused import attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

#: Largest difference from float64, as a share of the values' deviation.
LIMITS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize(
    ("rows", "frames", "heads", "size", "longest"),
    [
        (2, 1, 2, 16, 5),
        (3, 63, 2, 32, 63),
        (2, 64, 8, 128, 64),
        (2, 65, 8, 128, 400),
        (4, 126, 8, 128, 376),
        (2, 751, 2, 128, 752),
        (3, 130, 4, 44, 150),
    ],
)
def test_every_valid_frame_is_that_of_the_products(
    dtype: torch.dtype, rows: int, frames: int, heads: int, size: int, longest: int
) -> None:
    from variants.encoder import relative_attention

    generator = torch.Generator("cuda").manual_seed(frames)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    tensors = (normal(heads, size), normal(heads, size), normal(heads, 2 * longest - 1, size))
    qkv, lengths = normal(rows, frames, 3, heads, size), torch.linspace(frames, 0, rows, device="cuda").long()
    found = relative_attention.attend(qkv, lengths, *tensors)
    expected = attend(qkv.double(), lengths, *(each.double() for each in tensors))
    valid = torch.arange(frames, device="cuda") < lengths[:, None]
    assert torch.isfinite(found).all()
    assert float((found.double() - expected)[valid].abs().max() / expected[valid].std()) < LIMITS[dtype]
