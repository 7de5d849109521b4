"""Parts of Whisper's layers over openai-whisper's weights, for our own encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import layer_norm, linear


@dataclass(frozen=True, slots=True)
class Affine:
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Norm:
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias)


def norm(module: Any, dtype: torch.dtype) -> Norm:
    return Norm(module.weight.to(dtype), module.bias.to(dtype))


def joined(dtype: torch.dtype, *modules: Any) -> Affine:
    """One projection to the outputs of all; a key has no bias, which is zeros."""
    weights = [module.weight.to(dtype) for module in modules]
    if len(modules) == 1:
        return Affine(weights[0], modules[0].bias.to(dtype))
    biases = [
        weight.new_zeros(len(weight)) if module.bias is None else module.bias.to(dtype)
        for module, weight in zip(modules, weights, strict=True)
    ]
    return Affine(torch.cat(weights), torch.cat(biases))


def by_head(x: torch.Tensor, *shape: int) -> torch.Tensor:
    """``[B, N, D]`` with its last dimension in ``shape``."""
    return x.view(*x.shape[:2], *shape)
