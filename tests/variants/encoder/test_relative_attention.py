"""One kernel's attention is that of the products it replaces."""

from __future__ import annotations

import pytest
import torch

from variants.encoder.fused import attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
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
def test_every_valid_frame_is_as_near_as_the_products_come(
    dtype: torch.dtype, rows: int, frames: int, heads: int, size: int, longest: int
) -> None:
    from variants.encoder import relative_attention

    generator = torch.Generator("cuda").manual_seed(frames)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    tensors = (normal(heads, size), normal(heads, size), normal(heads, 2 * longest - 1, size))
    qkv, lengths = normal(rows, frames, 3, heads, size), torch.linspace(frames, 0, rows, device="cuda").long()
    found = relative_attention.attend(qkv, lengths, *tensors)
    exact = attend(qkv.double(), lengths, *(each.double() for each in tensors))
    valid = torch.arange(frames, device="cuda") < lengths[:, None]

    def error(values: torch.Tensor) -> float:
        return float((values.double() - exact)[valid].square().mean().sqrt())

    assert torch.isfinite(found).all()
    # As near as the products come in the same type, and at the least as near as that type can hold them.
    rounding = torch.finfo(dtype).eps * float(exact[valid].square().mean().sqrt())
    assert error(found) <= 1.5 * max(error(attend(qkv, lengths, *tensors)), rounding)
