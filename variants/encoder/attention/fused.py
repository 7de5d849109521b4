"""Whisper's encoder in our own layers over openai-whisper's weights: one product for query, key and value,
norms in the number type of the model, attention without a copy. Compiled once for all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import conv1d, gelu, layer_norm, linear, scaled_dot_product_attention

from variants.models.whisper.layers import joined, norm

if TYPE_CHECKING:
    from variants.models.whisper.model import AttentionModel

Compile = Callable[[Any], Any]
Pair = tuple[torch.Tensor, torch.Tensor]
"""Weight and bias."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one layer, tensors alone: a compiled function of them is compiled once for all layers."""

    attention_norm: Pair
    qkv: Pair  # D to 3 D
    out: Pair
    mlp_norm: Pair
    mlp_in: Pair
    mlp_out: Pair


class FusedEncoder:
    """Features ``[B, F, T]`` of windows or of their beginnings to states ``[B, T / 2, D]``."""

    def __init__(self, model: AttentionModel, compile: Compile) -> None:
        encoder = model.modules.encoder
        self._heads = model.size.n_audio_head
        self._stem = compile(_stem)
        self._block = compile(_block)
        self._convolutions = [(conv.weight, conv.bias) for conv in (encoder.conv1, encoder.conv2)]
        self._positions = encoder.positional_embedding.to(model.dtype)
        self._layers = [_weights(block, model.dtype) for block in encoder.blocks]
        last = norm(encoder.ln_post, model.dtype)
        self._last = (last.weight, last.bias)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        positions = self._positions[: features.shape[-1] // 2]
        x = self._stem(features, *self._convolutions, positions)  # [B, T / 2, D]
        for layer in self._layers:
            x = self._block(
                x,
                self._heads,
                layer.attention_norm,
                layer.qkv,
                layer.out,
                layer.mlp_norm,
                layer.mlp_in,
                layer.mlp_out,
            )
        return layer_norm(x, x.shape[-1:], *self._last)


def _stem(features: torch.Tensor, first: Pair, second: Pair, positions: torch.Tensor) -> torch.Tensor:
    x = gelu(conv1d(features, first[0], first[1], padding=1))
    x = gelu(conv1d(x, second[0], second[1], stride=2, padding=1))
    return x.transpose(1, 2) + positions


def _block(
    x: torch.Tensor,
    heads: int,
    attention_norm: Pair,
    qkv: Pair,
    out: Pair,
    mlp_norm: Pair,
    mlp_in: Pair,
    mlp_out: Pair,
) -> torch.Tensor:
    rows, length, width = x.shape
    mixed = linear(layer_norm(x, (width,), *attention_norm), *qkv)
    query, key, value = mixed.view(rows, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    found = scaled_dot_product_attention(query, key, value)  # [B, H, 1500, D / H]
    x = x + linear(found.transpose(1, 2).reshape(rows, length, width), *out)
    return x + linear(gelu(linear(layer_norm(x, (width,), *mlp_norm), *mlp_in)), *mlp_out)


def _weights(block: Any, dtype: torch.dtype) -> Weights:
    def pair(part: Any) -> Pair:
        return part.weight, part.bias

    own = block.attn
    return Weights(
        attention_norm=pair(norm(block.attn_ln, dtype)),
        qkv=pair(joined(dtype, own.query, own.key, own.value)),
        out=pair(joined(dtype, own.out)),
        mlp_norm=pair(norm(block.mlp_ln, dtype)),
        mlp_in=pair(joined(dtype, block.mlp[0])),
        mlp_out=pair(joined(dtype, block.mlp[2])),
    )
