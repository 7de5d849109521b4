"""Attention with relative positions as one kernel, for NVIDIA GPUs: no score is ever written to memory.

The arithmetic is that of ``variants.encoder.fused.attend`` (Dai et al. 2019, arXiv:1901.02860, section 3.3),
the order that of Dao et al. 2022 (arXiv:2205.14135): a program owns ``BLOCK`` queries of one head and walks
over the keys, ``BLOCK`` at a time, with a running maximum and sum.

What is new is the relative shift inside a tile. Query ``i`` and key ``j`` meet at row ``middle - i + j`` of
the table of positions, so a tile of queries from ``i0`` and keys from ``j0`` needs the ``2 BLOCK - 1`` rows
around ``middle - i0 + j0``: two blocks of the table, of which the upper is the lower of the next tile. Each
block is multiplied once. Entry ``[a, b]`` of the tile is entry ``b - a + BLOCK - 1`` of row ``a`` of both
blocks side by side; what a row needs of the lower block and what of the upper never lie at the same place,
so both fit into one block, of which row ``a`` is then turned by ``a + 1`` places.

Tiles of keys beyond an utterance are not visited, so a short row of a batch costs what it is long.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

BLOCK = 64
WARPS = 4
STAGES = 1

_LOG2_E = 1.0 / math.log(2.0)


@torch.library.custom_op("speech_serving::relative_attention", mutates_args=())
def attend(
    qkv: torch.Tensor,
    lengths: torch.Tensor,
    content_bias: torch.Tensor,
    position_bias: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """See ``variants.encoder.fused.attend``. Every tensor is contiguous."""
    batch, time, _, heads, size = qkv.shape
    mixed = torch.empty((batch, time, heads, size), dtype=qkv.dtype, device=qkv.device)
    _attend[(triton.cdiv(time, BLOCK), heads, batch)](
        qkv,
        lengths,
        content_bias,
        position_bias,
        positions,
        mixed,
        time,
        positions.shape[1],
        _LOG2_E / math.sqrt(size),
        heads=heads,
        size=size,
        padded=max(16, triton.next_power_of_2(size)),
        block=BLOCK,
        precision="ieee" if qkv.dtype == torch.float32 else "tf32",
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return mixed


@attend.register_fake
def _(qkv: torch.Tensor, *_others: torch.Tensor) -> torch.Tensor:
    return qkv.new_empty((*qkv.shape[:2], *qkv.shape[3:]))


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    qkv,  # [B, T, 3, H, d]
    lengths,  # [B]
    content_bias,  # [H, d]
    position_bias,  # [H, d]
    positions,  # [H, rows, d]
    mixed,  # [B, T, H, d]
    time,
    rows,
    scale,  # to the exponent of two
    heads: tl.constexpr,
    size: tl.constexpr,
    padded: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    first, head, row = tl.program_id(0) * block, tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + row).to(tl.int32)
    width: tl.constexpr = heads * size
    frames = tl.arange(0, block)
    places = tl.arange(0, padded)  # within a head
    is_place = places < size
    of_head = head * size + places
    q_rows = qkv + row * time * 3 * width + of_head
    k_rows = q_rows + width
    v_rows = k_rows + width
    table = positions + head.to(tl.int64) * rows * size + places

    mine = first + frames
    q = tl.load(
        q_rows[None, :] + mine[:, None] * 3 * width,
        mask=(mine < length)[:, None] & is_place[None, :],
        other=0.0,
    )
    by_content = q + tl.load(content_bias + of_head, mask=is_place, other=0.0)[None, :]
    by_position = q + tl.load(position_bias + of_head, mask=is_place, other=0.0)[None, :]

    # Row a of a tile's positions, turned by a + 1: place b holds what lay at b - a - 1, modulo the block.
    turned = (frames[None, :] - frames[:, None] - 1) & (block - 1)
    from_lower = frames[None, :] >= block - 1 - frames[:, None]

    nearest = rows // 2 - first - (block - 1) + frames  # of the lower block, for the keys from 0
    known = (nearest >= 0) & (nearest < rows)
    p = tl.load(table[None, :] + nearest[:, None] * size, mask=known[:, None] & is_place[None, :], other=0.0)
    lower = tl.dot(by_position, tl.trans(p), input_precision=precision).to(q.dtype)

    highest = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    sums = tl.zeros((block, padded), tl.float32)
    for start in range(0, tl.where(first < length, length, 0), block):
        keys = start + frames
        heard = (keys < length)[:, None] & is_place[None, :]
        k = tl.load(k_rows[None, :] + keys[:, None] * 3 * width, mask=heard, other=0.0)
        v = tl.load(v_rows[None, :] + keys[:, None] * 3 * width, mask=heard, other=0.0)
        nearest = rows // 2 - first + 1 + keys  # of the upper block
        known = (nearest >= 0) & (nearest < rows)
        p = tl.load(
            table[None, :] + nearest[:, None] * size, mask=known[:, None] & is_place[None, :], other=0.0
        )
        upper = tl.dot(by_position, tl.trans(p), input_precision=precision).to(q.dtype)
        by_distance = tl.gather(tl.where(from_lower, lower, upper), turned, 1)
        scores = tl.dot(by_content, tl.trans(k), input_precision=precision) + by_distance.to(tl.float32)
        scores = tl.where((keys < length)[None, :], scores * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fading = tl.exp2(highest - higher)
        total = total * fading + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * fading[:, None], input_precision=precision)
        highest = higher
        lower = upper

    # No key was visited where the tile lies beyond the utterance.
    values = sums / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(
        mixed + row * time * width + of_head[None, :] + mine[:, None] * width,
        values.to(mixed.dtype.element_ty),
        mask=(mine < time)[:, None] & is_place[None, :],
    )
