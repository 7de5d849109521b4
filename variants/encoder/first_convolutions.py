"""The first two convolutions of the subsampling as one kernel, for NVIDIA GPUs.

The arithmetic is that of ``variants.encoder.subsampling.begin_subsampling``. An output hears seven by seven
features through nine outputs of the first convolution, which are computed anew for each of it: 81
multiply-adds from registers cost less than nine reads of a tensor that has to be written before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BINS = 16
WARPS = 8


def _output(
    x: torch.Tensor, _lengths: torch.Tensor, first: torch.Tensor, *_others: torch.Tensor
) -> torch.Tensor:
    return x.new_empty((x.shape[0], (x.shape[1] + 3) // 4, (x.shape[2] + 3) // 4, first.shape[1]))


@torch.library.custom_op("speech_serving::first_convolutions", mutates_args=())
def begin_subsampling(
    x: torch.Tensor,
    lengths: torch.Tensor,
    first: torch.Tensor,
    first_bias: torch.Tensor,
    second: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    """See ``variants.encoder.subsampling.begin_subsampling``. Every tensor is contiguous."""
    found = _output(x, lengths, first)
    batch, time, bins, channels = found.shape
    _begin[(batch * time, triton.cdiv(bins, BINS))](
        x,
        lengths,
        first,
        first_bias,
        second,
        second_bias,
        found,
        x.shape[1],
        x.shape[2],
        time,
        bins,
        channels=channels,
        padded=triton.next_power_of_2(channels),
        block=BINS,
        num_warps=WARPS,
    )
    return found


begin_subsampling.register_fake(_output)


@triton.jit  # type: ignore[untyped-decorator]
def _begin(  # type: ignore[no-untyped-def]
    x,  # [B, T, F]
    lengths,  # [B]
    first,  # [9, C]
    first_bias,  # [C]
    second,  # [9, C]
    second_bias,  # [C]
    found,  # [B, T / 4, F / 4, C]
    time,
    bins,
    time_out,
    bins_out,
    channels: tl.constexpr,
    padded: tl.constexpr,
    block: tl.constexpr,
):
    row, frame = tl.program_id(0) // time_out, tl.program_id(0) % time_out
    mine = tl.program_id(1) * block + tl.arange(0, block)  # bins of the output
    channel = tl.arange(0, padded)
    is_channel = channel < channels
    length = tl.load(lengths + row).to(tl.int32)
    features = x + row.to(tl.int64) * time * bins
    first_offset = tl.load(first_bias + channel, mask=is_channel, other=0.0)[None, :]
    sums = tl.zeros((block, padded), tl.float32)
    sums += tl.load(second_bias + channel, mask=is_channel, other=0.0)[None, :]
    for i in tl.static_range(3):
        middle_frame = 2 * frame + i - 1
        for j in tl.static_range(3):
            middle_bin = 2 * mine + j - 1
            middle = tl.zeros((block, padded), tl.float32) + first_offset
            for k in tl.static_range(3):
                at_frame = 2 * middle_frame + k - 1
                for m in tl.static_range(3):
                    at_bin = 2 * middle_bin + m - 1
                    inside = (at_frame >= 0) & (at_frame < length) & (at_bin >= 0) & (at_bin < bins)
                    heard = tl.load(features + at_frame * bins + at_bin, mask=inside, other=0.0)
                    tap = tl.load(first + (3 * k + m) * channels + channel, mask=is_channel, other=0.0)
                    middle += heard.to(tl.float32)[:, None] * tap[None, :]
            inside = (middle_frame >= 0) & (middle_frame < (length + 1) // 2)
            inside = inside & (middle_bin >= 0) & (middle_bin < (bins + 1) // 2)
            tap = tl.load(second + (3 * i + j) * channels + channel, mask=is_channel, other=0.0)
            sums += tl.where(inside[:, None], tl.maximum(middle, 0.0), 0.0) * tap[None, :]
    place = (row.to(tl.int64) * time_out + frame) * bins_out + mine
    tl.store(
        found + place[:, None] * channels + channel[None, :],
        sums.to(found.dtype.element_ty),
        mask=(mine < bins_out)[:, None] & is_channel[None, :],
    )
