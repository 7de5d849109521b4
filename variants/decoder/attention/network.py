"""Whisper's text decoder over caches of fixed size and place, so that a step can be captured.

The weights are openai-whisper's, with the projections of one input in one matrix. Shapes: ``B`` rows,
``N`` tokens of each (a prompt, or the last one), ``S`` positions, ``A`` encoder states, ``H`` heads,
``D`` the width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from variants.models.whisper.layers import Affine, Norm, by_head, joined, norm

if TYPE_CHECKING:
    from variants.models.whisper.model import AttentionModel


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: what is attended to is computed from the norm before it."""

    self_norm: Norm
    self_qkv: Affine  # D to 3 D
    self_out: Affine
    cross_norm: Norm
    cross_query: Affine
    cross_kv: Affine  # encoder's width to 2 D
    cross_out: Affine
    mlp_norm: Norm
    mlp_in: Affine
    mlp_out: Affine


@dataclass(frozen=True, slots=True)
class Caches:
    """Keys and values of some rows. ``rows`` is a view: fewer rows and states are in the same memory."""

    own: torch.Tensor  # [layers, B, S, 2, H, D / H], of the tokens so far
    cross: torch.Tensor  # [layers, B, A, 2, H, D / H], of the encoder's states

    def rows(self, count: int, states: int) -> Caches:
        return Caches(self.own[:, :count], self.cross[:, :count, :states])


class Network:
    """For one thread at a time, where the caches it is given are."""

    def __init__(self, model: AttentionModel) -> None:
        decoder = model.modules.decoder
        self._size, self._device, self._dtype = model.size, model.device, model.dtype
        self._layers = [_layer(block, model.dtype) for block in decoder.blocks]
        self._norm = norm(decoder.ln, model.dtype)
        self._embedding: torch.Tensor = decoder.token_embedding.weight  # [V, D]
        self._positions: torch.Tensor = decoder.positional_embedding  # [S, D]
        self._columns = torch.arange(model.size.n_text_ctx, device=model.device)

    def caches(self, rows: int) -> Caches:
        size = self._size
        heads = (2, size.n_text_head, size.n_text_state // size.n_text_head)

        def zeros(length: int) -> torch.Tensor:
            shape = (size.n_text_layer, rows, length, *heads)
            return torch.zeros(shape, dtype=self._dtype, device=self._device)

        return Caches(own=zeros(size.n_text_ctx), cross=zeros(size.n_audio_ctx))

    def attend_to(self, states: torch.Tensor, caches: Caches) -> None:
        """Fill the keys and values of ``states`` ``[B, A, D]``, which every step reads."""
        for layer, cross in zip(self._layers, caches.cross, strict=True):
            cross.copy_(layer.cross_kv(states).view(cross.shape))

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, reach: int, caches: Caches
    ) -> torch.Tensor:
        """Final states ``[B, N, D]`` of ``tokens`` ``[B, N]`` at ``positions`` ``[B, N]``, all of them below
        ``reach``: as much of the cache is read."""
        x = (self._embedding[tokens] + self._positions[positions]).to(self._dtype)  # [B, N, D]
        rows = torch.arange(len(tokens), device=self._device)[:, None]
        mask = self._mask(positions, reach)  # [B, 1, N, reach]
        for layer, own, cross in zip(self._layers, caches.own, caches.cross, strict=True):
            x = x + self._attend_own(layer, x, rows, positions, mask, own)
            x = x + self._attend_cross(layer, x, cross)
            x = x + layer.mlp_out(gelu(layer.mlp_in(layer.mlp_norm(x))))
        return self._norm(x)

    def _mask(self, positions: torch.Tensor, reach: int) -> torch.Tensor:
        """What is added to scores, once for all layers: nothing may look at what comes later."""
        later = self._columns[:reach] > positions[:, None, :, None]
        return torch.zeros_like(later, dtype=self._dtype).masked_fill(later, float("-inf"))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Of final states ``[..., D]``, float32 ``[..., V]``."""
        return linear(x, self._embedding).float()

    def _attend_own(
        self,
        layer: Layer,
        x: torch.Tensor,
        rows: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        own: torch.Tensor,
    ) -> torch.Tensor:
        qkv = by_head(layer.self_qkv(layer.self_norm(x)), 3, *own.shape[-2:])  # [B, N, 3, H, D / H]
        own[rows, positions] = qkv[:, :, 1:]
        keys, values = own[:, : mask.shape[-1]].permute(2, 0, 3, 1, 4)  # [B, H, reach, D / H] each
        found = scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), keys, values, attn_mask=mask)
        return layer.self_out(found.transpose(1, 2).flatten(2))

    def _attend_cross(self, layer: Layer, x: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
        query = by_head(layer.cross_query(layer.cross_norm(x)), *cross.shape[-2:]).transpose(1, 2)
        keys, values = cross.permute(2, 0, 3, 1, 4)  # [B, H, A, D / H] each
        found = scaled_dot_product_attention(query, keys, values)
        return layer.cross_out(found.transpose(1, 2).flatten(2))


def _layer(block: Any, dtype: torch.dtype) -> Layer:
    own, cross = block.attn, block.cross_attn
    return Layer(
        self_norm=norm(block.attn_ln, dtype),
        self_qkv=joined(dtype, own.query, own.key, own.value),
        self_out=joined(dtype, own.out),
        cross_norm=norm(block.cross_attn_ln, dtype),
        cross_query=joined(dtype, cross.query),
        cross_kv=joined(dtype, cross.key, cross.value),
        cross_out=joined(dtype, cross.out),
        mlp_norm=norm(block.mlp_ln, dtype),
        mlp_in=joined(dtype, block.mlp[0]),
        mlp_out=joined(dtype, block.mlp[2]),
    )
