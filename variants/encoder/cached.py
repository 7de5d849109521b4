"""A FastConformer over live streams that computes a chunk's own frames: layers keep what they need.

That is, of the frames before the chunk, the keys and values of every layer's attention and the last inputs
of its convolution, as they were when those frames were a chunk. A window would compute them again, with more
of what follows in sight: unless a model was trained in this way, the states differ, and with them the text.
It is an approximation, whose word error rate is measured (``python -m training streams``). What is right of
the chunk is computed with it, and again with the next.

Layers are those of ``variants.encoder.fused``, over the same weights. Shapes: ``B`` rows, ``L`` frames kept,
``T`` frames of a step (chunk and right context), ``H`` heads of width ``d``, ``K`` taps of a convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from variants.encoder.fused import (
    MASKED,
    LayerWeights,
    feed_forward,
    layer_weights,
    normed,
    position_table,
    require_known,
)


@dataclass(frozen=True)
class Step:
    """Which frames a step computes, and where it finds what it keeps: int64 ``[B]`` each."""

    slots: torch.Tensor
    first: torch.Tensor
    """Number of the first frame of the chunk, from the stream's beginning."""
    kept: torch.Tensor
    """Frames before it that are in sight, at most ``L``."""
    lengths: torch.Tensor
    """Frames of chunk and right context."""
    chunk: torch.Tensor
    """Frames of the chunk, which are kept for the next ones."""


@dataclass
class LayerCache:
    """What one layer keeps of every stream. A frame lies at its number modulo ``L``."""

    keys: torch.Tensor  # [S, L, H, d]
    values: torch.Tensor  # [S, L, H, d]
    tail: torch.Tensor  # [S, K // 2, D], what the convolution heard last


@dataclass(frozen=True)
class Made:
    """What a step made in one layer: ``[B, T, H, d]`` twice, and ``[B, K // 2 + T, D]``."""

    keys: torch.Tensor
    values: torch.Tensor
    heard: torch.Tensor


class CachedLayers:
    """The layers of ``encoder`` (NeMo's ``ConformerEncoder``), for steps that see at most ``longest`` frames.
    Raises ``UsageError`` for a Conformer of another kind."""

    def __init__(self, encoder: Any, longest: int) -> None:
        require_known(encoder)
        self.subsample = encoder.pre_encode
        self.scale = float(encoder.xscale or 1.0)
        table = position_table(encoder, longest + 1)
        self.weights = [layer_weights(each, table) for each in encoder.layers]

    @property
    def like(self) -> torch.Tensor:
        """Of the device and the type of all."""
        return self.weights[0].qkv[0]

    @property
    def width(self) -> int:
        return int(self.like.shape[1])

    def caches(self, slots: int, kept: int) -> list[LayerCache]:
        return [_cache_of(each, slots, kept) for each in self.weights]


def _cache_of(weights: LayerWeights, slots: int, kept: int) -> LayerCache:
    heads, size = weights.content_bias.shape
    like = weights.qkv[0]
    shape = (slots, kept, heads, size)
    reach = len(weights.depthwise[0]) // 2
    tail = like.new_zeros(slots, reach, weights.conv_out[0].shape[1])
    return LayerCache(like.new_zeros(shape), like.new_zeros(shape), tail)


class CachedConformer:
    """The encoder of a pool of ``slots`` streams that keeps ``kept`` frames of each, allocated here."""

    def __init__(self, layers: CachedLayers, slots: int, kept: int) -> None:
        self._layers = layers
        self._kept = kept
        self._caches = layers.caches(slots, kept)
        self._made: list[Made] = []

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for cache in self._caches for each in (cache.keys, cache.values, cache.tail))

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Subsampled frames ``[B, T, D]`` to states of the same shape; nothing is kept until ``keep``."""
        self._made = []
        x = x * self._layers.scale if self._layers.scale != 1.0 else x
        for weights, cache in zip(self._layers.weights, self._caches, strict=True):
            x, made = _layer(x, weights, cache, step)
            self._made.append(made)
        return x

    def keep(self, step: Step) -> None:
        """What the last call made of the chunks, for the steps after."""
        number = torch.arange(int(self._made[0].keys.shape[1]), device=step.first.device)
        row, at = torch.nonzero(number < step.chunk[:, None], as_tuple=True)
        where = step.slots[row], (step.first[row] + at) % self._kept
        for cache, made in zip(self._caches, self._made, strict=True):
            cache.keys[where] = made.keys[row, at]
            cache.values[where] = made.values[row, at]
            reach = cache.tail.shape[1]
            last = step.chunk[:, None] + torch.arange(reach, device=step.first.device)
            cache.tail[step.slots] = made.heard[torch.arange(len(last), device=last.device)[:, None], last]
        self._made = []


def _layer(
    x: torch.Tensor, weights: LayerWeights, cache: LayerCache, step: Step
) -> tuple[torch.Tensor, Made]:
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff1), weights.ff1_in, weights.ff1_out)
    mixed, keys, values = _attention(normed(x, weights.norm_attention), weights, cache, step)
    x = x + mixed
    convolved, heard = _convolution(normed(x, weights.norm_conv), weights, cache, step)
    x = x + convolved
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff2), weights.ff2_in, weights.ff2_out)
    return normed(x, weights.norm_out), Made(keys, values, heard)


def _attention(
    x: torch.Tensor, weights: LayerWeights, cache: LayerCache, step: Step
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What queries of the step find in frames that were kept and in their own; its keys and values."""
    heads, size = weights.content_bias.shape
    time, kept = x.shape[1], cache.keys.shape[1]
    q, k, v = functional.linear(x, *weights.qkv).view(*x.shape[:2], 3, heads, size).unbind(2)
    # Oldest first, the newest beside the chunk: rows that keep fewer frames have none at the beginning.
    at = (step.first[:, None] - kept + torch.arange(kept, device=x.device)) % max(1, kept)
    keys = torch.cat((cache.keys[step.slots[:, None], at], k), dim=1)  # [B, L + T, H, d]
    values = torch.cat((cache.values[step.slots[:, None], at], v), dim=1)
    content = (q + weights.content_bias).transpose(1, 2) @ keys.permute(0, 2, 3, 1)  # [B, H, T, L + T]
    middle = weights.positions.shape[1] // 2
    near = weights.positions[:, middle - (kept + time - 1) : middle + time]  # [H, L + 2T - 1, d]
    unshifted = (q + weights.position_bias).transpose(1, 2) @ near.transpose(1, 2)
    scores = (content + _shifted(unshifted, kept + time)) / math.sqrt(size)
    scores = scores.masked_fill(~_in_sight(step, kept, time)[:, None, None], MASKED)
    mixed = (torch.softmax(scores, dim=-1) @ values.transpose(1, 2)).transpose(1, 2)
    return functional.linear(mixed.flatten(2), *weights.attention_out), k, v


def _in_sight(step: Step, kept: int, time: int) -> torch.Tensor:
    """Which keys there are, ``[B, L + T]``."""
    key = torch.arange(kept + time, device=step.first.device)
    return (key >= kept - step.kept[:, None]) & (key < kept + step.lengths[:, None])


def _shifted(scores: torch.Tensor, keys: int) -> torch.Tensor:
    """Position scores ``[B, H, T, L + 2T - 1]`` of distances L + T - 1 down to 1 - T, by key.

    Entry ``[i, j]`` is entry ``[i, T - 1 - i + j]`` of what is given: a view of it laid out in one row.
    """
    time, width = scores.shape[2:]
    if time == 1:
        return scores
    row = scores.flatten(2)[..., time - 1 : time - 1 + time * (width - 1)]
    return row.view(*row.shape[:2], time, width - 1)[..., :keys]


def _convolution(
    x: torch.Tensor, weights: LayerWeights, cache: LayerCache, step: Step
) -> tuple[torch.Tensor, torch.Tensor]:
    """Its output ``[B, T, D]``, and what it heard from before the step on, ``[B, K // 2 + T, D]``."""
    taps, bias = weights.depthwise
    time = x.shape[1]
    x = functional.glu(functional.linear(x, *weights.gate), dim=-1)
    beyond = torch.arange(time, device=x.device) >= step.lengths[:, None]
    tail = cache.tail[step.slots] * (step.kept > 0)[:, None, None]  # before a stream there is silence
    heard = torch.cat((tail, x.masked_fill(beyond[..., None], 0.0)), dim=1)
    padded = functional.pad(heard, (0, 0, 0, len(taps) // 2))
    mixed = bias.float()
    for index in range(len(taps)):  # in float32, as a convolution adds up
        mixed = mixed + padded[:, index : index + time].float() * taps[index]
    return functional.linear(functional.silu(mixed).to(x.dtype), *weights.conv_out), heard
