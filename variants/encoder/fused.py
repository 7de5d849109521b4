"""A FastConformer over NeMo's weights, written for few kernels: what inductor can fuse, it is given to fuse.

NeMo's layer is written for every Conformer there is. This one knows its own: relative attention over the
whole segment, batch norm, no dropout. The arithmetic is that of Rekesh et al. 2023 (arXiv:2305.05084) with
relative positions of Dai et al. 2019 (arXiv:1901.02860, section 3.3), and these liberties:

* queries, keys and values are one matrix product, and NeMo's three matrices become views of its weight;
* the projected positions depend on the length alone: each layer's are computed once, for the longest
  length, and a shorter one takes the middle of that table;
* the relative shift moves no data: entry ``[i, j]`` of the shifted scores is entry ``[i, T - 1 - i + j]`` of
  the unshifted, and ``T - 1 + i (2T - 2) + j`` of those laid out in one row, which is a view;
* batch norm is folded into the depthwise convolution, and that is nine multiply-adds beside the gate and
  the activation in one kernel, in the layout ``[B, T, D]`` that the products around it have;
* a padded frame is masked where others could hear it, as a key and before the convolution; what it holds
  itself is nobody's business.

What mixes the frames may be a kernel of our own (``variants.encoder.relative_attention``) in place of
``attend``. A layer is a function of tensors, so all layers share one compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from harness.errors import UsageError

MASKED = -10_000.0
"""NeMo's stand-in for minus infinity; a row of nothing else stays finite."""

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``attend`` below, or what computes the same."""


Subsample = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Features ``[B, T, F]`` and their frames ``[B]`` to ``[B, T', D]`` and theirs."""


class LayerWeights(NamedTuple):
    """One layer. ``D`` is the width, ``H`` heads, ``K`` the convolution's kernel; biases may be missing."""

    norm_ff1: tuple[torch.Tensor, torch.Tensor]
    ff1_in: tuple[torch.Tensor, torch.Tensor | None]  # [4D, D]
    ff1_out: tuple[torch.Tensor, torch.Tensor | None]  # [D, 4D]
    norm_attention: tuple[torch.Tensor, torch.Tensor]
    qkv: tuple[torch.Tensor, torch.Tensor | None]  # [3D, D]
    content_bias: torch.Tensor  # [H, D / H], u of the paper
    position_bias: torch.Tensor  # [H, D / H], v of the paper
    positions: torch.Tensor  # [H, 2 longest - 1, D / H], projected
    attention_out: tuple[torch.Tensor, torch.Tensor | None]  # [D, D]
    norm_conv: tuple[torch.Tensor, torch.Tensor]
    gate: tuple[torch.Tensor, torch.Tensor | None]  # [2D, D]
    depthwise: tuple[torch.Tensor, torch.Tensor]  # [K, D] and [D], batch norm inside
    conv_out: tuple[torch.Tensor, torch.Tensor | None]  # [D, D]
    norm_ff2: tuple[torch.Tensor, torch.Tensor]
    ff2_in: tuple[torch.Tensor, torch.Tensor | None]
    ff2_out: tuple[torch.Tensor, torch.Tensor | None]
    norm_out: tuple[torch.Tensor, torch.Tensor]


def layer(
    x: torch.Tensor, valid: torch.Tensor, lengths: torch.Tensor, weights: LayerWeights, mix: Attend
) -> torch.Tensor:
    """``[B, T, D]`` to the same; ``valid`` ``[B, T]`` is true on the ``lengths`` frames of each utterance."""
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff1), weights.ff1_in, weights.ff1_out)
    x = x + _attention(normed(x, weights.norm_attention), lengths, weights, mix)
    x = x + _convolution(normed(x, weights.norm_conv), valid, weights)
    x = x + 0.5 * feed_forward(normed(x, weights.norm_ff2), weights.ff2_in, weights.ff2_out)
    return normed(x, weights.norm_out)


def normed(x: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], *norm)


def feed_forward(
    x: torch.Tensor,
    inner: tuple[torch.Tensor, torch.Tensor | None],
    outer: tuple[torch.Tensor, torch.Tensor | None],
) -> torch.Tensor:
    return functional.linear(functional.silu(functional.linear(x, *inner)), *outer)


def _attention(x: torch.Tensor, lengths: torch.Tensor, weights: LayerWeights, mix: Attend) -> torch.Tensor:
    heads, size = weights.content_bias.shape
    qkv = functional.linear(x, *weights.qkv).view(*x.shape[:2], 3, heads, size)  # [B, T, 3, H, d]
    mixed = mix(qkv, lengths, weights.content_bias, weights.position_bias, weights.positions)
    return functional.linear(mixed.flatten(2), *weights.attention_out)


def attend(
    qkv: torch.Tensor,
    lengths: torch.Tensor,
    content_bias: torch.Tensor,
    position_bias: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Values mixed over the frames of each utterance, ``[B, T, H, d]``.

    ``qkv`` ``[B, T, 3, H, d]``, ``lengths`` ``[B]``, the biases u and v ``[H, d]``, ``positions``
    ``[H, 2 longest - 1, d]``. What a frame beyond its utterance gets is finite and means nothing.
    """
    q, k, v = qkv.unbind(2)  # [B, T, H, d]
    time, size = q.shape[1], q.shape[3]
    content = (q + content_bias).transpose(1, 2) @ k.permute(0, 2, 3, 1)  # [B, H, T, T]
    start = positions.shape[1] // 2 + 1 - time
    near = positions[:, start : start + 2 * time - 1]  # [H, 2T - 1, d]
    unshifted = (q + position_bias).transpose(1, 2) @ near.transpose(1, 2)  # [B, H, T, 2T - 1]
    scores = (content + _shifted(unshifted)) * (1.0 / math.sqrt(size))
    silent = torch.arange(time, device=q.device) >= lengths[:, None]
    scores = scores.masked_fill(silent[:, None, None, :], MASKED)
    return (torch.softmax(scores, dim=-1) @ v.transpose(1, 2)).transpose(1, 2)


def _shifted(scores: torch.Tensor) -> torch.Tensor:
    """Position scores ``[B, H, T, 2T - 1]`` of distances T - 1 down to 1 - T, by key: ``[B, H, T, T]``."""
    time = scores.shape[2]
    if time == 1:
        return scores
    row = scores.flatten(2)[..., time - 1 : time - 1 + time * (2 * time - 2)]
    return row.view(*row.shape[:2], time, 2 * time - 2)[..., :time]


def _convolution(x: torch.Tensor, valid: torch.Tensor, weights: LayerWeights) -> torch.Tensor:
    taps, bias = weights.depthwise
    time, reach = x.shape[1], len(taps) // 2
    x = functional.glu(functional.linear(x, *weights.gate), dim=-1)  # [B, T, D]
    x = functional.pad(x.masked_fill(~valid[..., None], 0.0), (0, 0, reach, reach))
    mixed = bias.float()
    for index in range(len(taps)):  # unrolled; in float32, as a convolution adds up
        mixed = mixed + x[:, index : index + time].float() * taps[index]
    return functional.linear(functional.silu(mixed).to(x.dtype), *weights.conv_out)


class FusedConformer:
    """``encoder`` (NeMo's ``ConformerEncoder``) as functions, over the same weights, for segments of at
    most ``longest`` encoder frames."""

    def __init__(
        self,
        encoder: Any,
        longest: int,
        compile: Compile,
        any_length: bool = False,
        mix: Attend = attend,
        subsample: Subsample | None = None,
    ) -> None:
        """``any_length``: one compilation for all lengths instead of one for each. ``mix`` is ``attend``, or
        what computes the same; ``subsample`` what computes the same as NeMo's ``pre_encode``.

        Raises ``UsageError`` for a Conformer of another kind.
        """
        require_known(encoder)
        self._any_length = any_length
        self._subsample = compile(subsample or encoder.pre_encode)
        self._layer = compile(partial(layer, mix=mix))
        self._scale = float(encoder.xscale or 1.0)
        # One more: a length that takes all of it would be special.
        table = position_table(encoder, longest + 1)
        self._layers = [layer_weights(each, table) for each in encoder.layers]

    @property
    def added_bytes(self) -> int:
        """What the layers hold beside NeMo's weights: positions and folded convolutions."""
        own = [t for each in self._layers for t in (each.positions, *each.depthwise)]
        return sum(tensor.nbytes for tensor in own)

    def __call__(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, F, T]`` in the weights' type and ``[B]`` to states ``[B, T', D]`` and lengths ``[B]``."""
        x, lengths = self._subsample(self._of_any_length(features.transpose(1, 2)), lengths)
        x = x * self._scale if self._scale != 1.0 else x
        lengths = lengths.to(torch.int64)
        valid = self._of_any_length(torch.arange(x.shape[1], device=x.device) < lengths[:, None])  # [B, T']
        for weights in self._layers:
            x = self._layer(self._of_any_length(x), valid, lengths, weights)
        return x, lengths

    def _of_any_length(self, tensor: torch.Tensor) -> torch.Tensor:
        """``[B, T, ...]``, its time left open to Dynamo; the widths stay known."""
        if self._any_length:
            torch._dynamo.mark_dynamic(tensor, 1)  # type: ignore[no-untyped-call]
        return tensor


def require_known(encoder: Any) -> None:
    """Raises ``UsageError`` naming what this FastConformer has and ``layer`` does not."""
    convolution = encoder.layers[0].conv.depthwise_conv
    reach = convolution.kernel_size[0] // 2
    known = {
        "self_attention_model": (encoder.self_attention_model, "rel_pos"),
        "att_context_size": (list(encoder.att_context_size), [-1, -1]),
        "conv_norm_type": (encoder.layers[0].conv.norm_type, "batch_norm"),
        "conv_context_size": ([convolution._left_padding, convolution._right_padding], [reach, reach]),
        "reduction": (encoder.reduction_position, None),
    }
    wrong = [f"{name}={found}" for name, (found, wanted) in known.items() if found != wanted]
    if wrong:
        raise UsageError(
            f"encoder.options.backend=fused does not know an encoder with {', '.join(wrong)}: "
            "use backend=graph or backend=inductor"
        )


def require_whole(encoder: Any, rows: int, frames: int) -> None:
    """Raises ``UsageError`` for a shape that NeMo's subsampling works through in parts, which cannot be
    compiled whole: its first convolution would write more numbers than 31 bits can count."""
    subsampling = encoder.pre_encode
    written = rows * frames * subsampling._feat_in * subsampling._conv_channels / subsampling._stride**2
    if written > 2**31:
        raise UsageError(
            f"encoder.options.backend=fused cannot compile a batch of {rows} x {frames} frames, which NeMo's "
            "subsampling cuts: lower model.max_batch, or set encoder.options.backend=kernels"
        )


@torch.no_grad()
def layer_weights(module: Any, table: torch.Tensor) -> LayerWeights:
    """``module`` is NeMo's ``ConformerLayer``, ``table`` the positions ``[2 longest - 1, D]``."""
    attention, convolution = module.self_attn, module.conv
    heads, size = attention.h, attention.d_k
    projected = attention.linear_pos(table).view(-1, heads, size).transpose(0, 1).contiguous()
    return LayerWeights(
        norm_ff1=_norm(module.norm_feed_forward1),
        ff1_in=_linear(module.feed_forward1.linear1),
        ff1_out=_linear(module.feed_forward1.linear2),
        norm_attention=_norm(module.norm_self_att),
        qkv=_joined(attention.linear_q, attention.linear_k, attention.linear_v),
        content_bias=attention.pos_bias_u.detach(),
        position_bias=attention.pos_bias_v.detach(),
        positions=projected,
        attention_out=_linear(attention.linear_out),
        norm_conv=_norm(module.norm_conv),
        gate=_pointwise(convolution.pointwise_conv1),
        depthwise=folded(convolution.depthwise_conv, convolution.batch_norm),
        conv_out=_pointwise(convolution.pointwise_conv2),
        norm_ff2=_norm(module.norm_feed_forward2),
        ff2_in=_linear(module.feed_forward2.linear1),
        ff2_out=_linear(module.feed_forward2.linear2),
        norm_out=_norm(module.norm_out),
    )


def folded(convolution: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Taps ``[K, D]`` and bias ``[D]``, float32, of a depthwise convolution followed by batch norm in
    evaluation: ``(w * x + b - mean) * gain + beta`` with ``gain = gamma / sqrt(variance + eps)``."""
    gain = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)  # [D]
    taps = convolution.weight.detach().float()[:, 0].transpose(0, 1) * gain  # [K, D]
    bias = 0.0 if convolution.bias is None else convolution.bias.float()
    return taps.contiguous(), ((bias - norm.running_mean.float()) * gain + norm.bias.float()).detach()


def _joined(*linears: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Their weights stacked; each goes on as a view of the stack, so that memory holds one copy."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    for linear, part in zip(linears, weight.chunk(len(linears)), strict=True):
        linear.weight.data = part
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return weight, torch.cat(biases) if biases else None


def _linear(module: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


def _pointwise(module: torch.nn.Conv1d) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A convolution of one tap as the matrix that it is."""
    return module.weight.detach()[..., 0], None if module.bias is None else module.bias.detach()


def _norm(module: torch.nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight.detach(), module.bias.detach()


def position_table(encoder: Any, longest: int) -> torch.Tensor:
    """NeMo's table from position ``longest - 1`` down to ``1 - longest``: ``[2 longest - 1, D]``."""
    encoder.pos_enc.extend_pe(longest, next(encoder.parameters()).device, next(encoder.parameters()).dtype)
    table: torch.Tensor = encoder.pos_enc.pe[0]
    middle = table.shape[0] // 2
    return table[middle - longest + 1 : middle + longest]
