"""NeMo's convolutional subsampling in the layout ``[B, T, F, C]``, which the products around it have.

Three convolutions of stride two, the first from one channel, the others depthwise and each followed by a
product over the channels. With the channels innermost a convolution is nine multiply-adds that a compiler
turns into one pass over memory, with the mask and the activation before it, and no tensor is ever
transposed. A padded frame is masked where a convolution hears it.

The first two may be one kernel (``variants.encoder.first_convolutions``), which never writes what lies
between them: at full size 256 channels of half the frames and bins, the largest tensor of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from harness.errors import UsageError

_TAPS = 3


Begin = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]
"""``begin_subsampling`` below, or what computes the same."""


class SubsamplingWeights(NamedTuple):
    """``C`` channels, ``F`` bins, ``D`` the encoder's width."""

    first: tuple[torch.Tensor, torch.Tensor]  # [9, C] and [C], float32
    depthwise: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # the same of each further stage
    pointwise: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # [C, C] and [C]
    out: tuple[torch.Tensor, torch.Tensor]  # [D, F' C] and [D]


def subsample(
    x: torch.Tensor, lengths: torch.Tensor, weights: SubsamplingWeights, begin: Begin | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``[B, T, F]`` and their frames ``[B]`` to ``[B, T', D]`` and theirs. ``begin`` is
    ``begin_subsampling``, or what computes the same."""
    x = (begin or begin_subsampling)(x, lengths, *weights.first, *weights.depthwise[0])
    lengths = _half(_half(lengths))
    x = functional.relu(functional.linear(x, *weights.pointwise[0]))
    for depthwise, pointwise in zip(weights.depthwise[1:], weights.pointwise[1:], strict=True):
        x = _halved(_masked(x, lengths), *depthwise)
        lengths = _half(lengths)
        x = functional.relu(functional.linear(x, *pointwise))
    return functional.linear(x.flatten(2), *weights.out), lengths


def begin_subsampling(
    x: torch.Tensor,
    lengths: torch.Tensor,
    first: torch.Tensor,
    first_bias: torch.Tensor,
    second: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    """The first two convolutions, ``[B, T, F]`` to ``[B, T / 4, F / 4, C]``; their taps are ``[9, C]``."""
    x = functional.relu(_halved(_masked(x[..., None], lengths), first, first_bias))
    return _halved(_masked(x, _half(lengths)), second, second_bias)


def _halved(x: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A convolution of 3 × 3 taps and stride 2 over ``[B, T, F, C]``, channel by channel; one channel goes to
    all. In float32, as a convolution adds up."""
    time, bins = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    padded = functional.pad(x, (0, 0, 1, 1, 1, 1))
    found = bias
    for tap in range(_TAPS * _TAPS):  # unrolled
        i, j = divmod(tap, _TAPS)
        heard = padded[:, i : i + 2 * time - 1 : 2, j : j + 2 * bins - 1 : 2]
        found = found + heard.float() * taps[tap]
    return found.to(x.dtype)


def _masked(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [B, T]
    return x.masked_fill(~inside[:, :, None, None], 0.0)


def _half(lengths: torch.Tensor) -> torch.Tensor:
    return (lengths + 1) // 2


@torch.no_grad()
def subsampling_weights(module: Any) -> SubsamplingWeights:
    """``module`` is NeMo's ``ConvSubsampling``. Raises ``UsageError`` for one of another kind."""
    convolutions = [each for each in module.conv if isinstance(each, torch.nn.Conv2d)]
    first, others = convolutions[0], convolutions[1:]
    _require_known(module, first, others)
    channels = first.out_channels
    out = module.out.weight.detach()
    # NeMo lays the channels out before the bins.
    turned = out.view(len(out), channels, -1).transpose(1, 2).reshape(len(out), -1)
    return SubsamplingWeights(
        first=_taps(first),
        depthwise=tuple(_taps(each) for each in others[::2]),
        pointwise=tuple((each.weight.detach()[:, :, 0, 0], _bias(each)) for each in others[1::2]),
        out=(turned.contiguous(), module.out.bias.detach()),
    )


def _taps(convolution: torch.nn.Conv2d) -> tuple[torch.Tensor, torch.Tensor]:
    taps = convolution.weight.detach().float().flatten(1).transpose(0, 1).contiguous()  # [9, C]
    return taps, _bias(convolution).float()


def _bias(convolution: torch.nn.Conv2d) -> torch.Tensor:
    bias: Any = convolution.bias
    return bias.detach()  # type: ignore[no-any-return]


def _require_known(module: Any, first: torch.nn.Conv2d, others: list[torch.nn.Conv2d]) -> None:
    strided = [first, *others[::2]]
    known = module._subsampling == "dw_striding" and not module.is_causal
    shapes = {(each.kernel_size, each.stride, each.padding) for each in strided}
    if not known or shapes != {((3, 3), (2, 2), (1, 1))}:
        raise UsageError(
            "encoder.options.backend=kernels does not know an encoder with "
            f"subsampling={module._subsampling}: use backend=graph or backend=inductor"
        )
