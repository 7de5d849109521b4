"""Layers that keep keys, values and tails against the same layers over the whole, each frame in its sight."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.variants.models.small import small_model
from variants.encoder.cached import CachedConformer, CachedLayers, Step
from variants.encoder.fused import LayerWeights, feed_forward, normed

FRAMES, KEPT, CHUNK = 24, 9, 3


@pytest.fixture(scope="module")
def layers() -> CachedLayers:
    return CachedLayers(small_model().encoder, KEPT + FRAMES)


def whole(x: torch.Tensor, weights: LayerWeights, kept: int, chunk: int) -> torch.Tensor:
    """One layer over ``[T, D]``: a frame hears its chunk and ``kept`` frames before it, entry by entry."""
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff1), weights.ff1_in, weights.ff1_out)
    heads, size = weights.content_bias.shape
    q, k, v = (
        functional.linear(normed(x, weights.norm_attention), *weights.qkv).view(-1, 3, heads, size).unbind(1)
    )
    middle = weights.positions.shape[1] // 2
    mixed = torch.zeros_like(q)
    for i in range(len(x)):
        begin = i // chunk * chunk
        seen = range(max(0, begin - kept), min(len(x), begin + chunk))
        scores = torch.stack(
            [
                ((q[i] + weights.content_bias) * k[j]).sum(-1)
                + ((q[i] + weights.position_bias) * weights.positions[:, middle - (i - j)]).sum(-1)
                for j in seen
            ]
        )  # [keys, H]
        share = torch.softmax(scores / math.sqrt(size), dim=0)
        mixed[i] = sum(share[n][:, None] * v[j] for n, j in enumerate(seen))  # type: ignore[assignment]
    x = x + functional.linear(mixed.flatten(1), *weights.attention_out)
    gated = functional.glu(functional.linear(normed(x, weights.norm_conv), *weights.gate), dim=-1)
    taps, bias = weights.depthwise
    reach = len(taps) // 2
    mixed = torch.stack([bias.clone() for _ in range(len(x))])
    for i in range(len(x)):
        for tap in range(len(taps)):
            j = i + tap - reach
            if 0 <= j < min(len(x), i // chunk * chunk + chunk):
                mixed[i] += taps[tap] * gated[j]
    x = x + functional.linear(functional.silu(mixed), *weights.conv_out)
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff2), weights.ff2_in, weights.ff2_out)
    return normed(x, weights.norm_out)


def step(slots: list[int], first: list[int], lengths: list[int], chunk: list[int]) -> Step:
    kept = [min(each, KEPT) for each in first]
    return Step(*(torch.tensor(each) for each in (slots, first, kept, lengths, chunk)))


@torch.inference_mode()
def test_chunk_by_chunk_is_the_whole_with_each_frame_s_sight_bounded(layers: CachedLayers) -> None:
    torch.manual_seed(1)
    sound = torch.randn(2, FRAMES, layers.width)
    conformer = CachedConformer(layers, 3, KEPT)
    found = []
    for first in range(0, FRAMES, CHUNK):
        now = step([2, 0], [first] * 2, [CHUNK] * 2, [CHUNK] * 2)
        found.append(conformer(sound[:, first : first + CHUNK], now))
        conformer.keep(now)
    for row in range(2):
        expected = sound[row]
        for weights in layers.weights:
            expected = whole(expected, weights, KEPT, CHUNK)
        assert torch.allclose(torch.cat(found, dim=1)[row], expected, atol=1e-4)


@torch.inference_mode()
def test_rows_of_any_age_and_length_whose_right_context_nobody_keeps(
    layers: CachedLayers,
) -> None:
    """A batch of ragged rows against each row by itself, whose right context changes its own step alone."""
    torch.manual_seed(2)
    together, single = CachedConformer(layers, 2, KEPT), CachedConformer(layers, 2, KEPT)
    sound = torch.randn(2, FRAMES, layers.width)
    at = [0, 0]
    for rows, lengths in (([1], [5]), ([0, 1], [4, 6]), ([1, 0], [3, 6]), ([0, 1], [6, 5])):
        first, chunk = [at[row] for row in rows], [3] * len(rows)
        x = torch.zeros(len(rows), max(lengths), layers.width)
        for n, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            x[n, :length] = sound[row, at[row] : at[row] + length]
        batch = step(rows, first, lengths, chunk)
        found = together(x, batch)
        together.keep(batch)
        for n, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            alone = step([row], [at[row]], [length], [3])
            assert torch.allclose(single(x[n : n + 1, :length], alone)[0], found[n, :length], atol=1e-4)
            single.keep(alone)
            at[row] += 3


@torch.inference_mode()
def test_what_is_not_kept_can_be_computed_again(layers: CachedLayers) -> None:
    torch.manual_seed(3)
    conformer, x = CachedConformer(layers, 1, KEPT), torch.randn(4, 1, CHUNK, layers.width)
    for number in range(4):
        now = step([0], [number * CHUNK], [CHUNK], [CHUNK])
        first = conformer(x[number], now)
        assert torch.equal(conformer(x[number], now), first)
        conformer.keep(now)
