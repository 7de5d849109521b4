"""Weights in the order in which the kernels' threads want them.

A product is ``W [16 rows, K] x X [K, 8 columns]`` by ``mma.m16n8k16``. K is cut into pairs of 32; inside
a pair lane ``4 * row + quad`` owns ``k = 8 * quad … 8 * quad + 7``, the first four for the first k16 step
and the last four for the second. Each lane's operand of a step is 16 contiguous bytes:
``(row, k)``, ``(row + 8, k)``, ``(row, k + 2)``, ``(row + 8, k + 2)``, two numbers each (PTX ISA, matrix
fragments for mma.m16n8k16).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from variants.decoder.gpu.shape import UNITS_PER_BLOCK

if TYPE_CHECKING:
    from variants.decoder.gpu.shape import KernelShape
    from variants.decoder.weights import TdtWeights


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """What the kernels read; all contiguous on the model's device."""

    joint: torch.Tensor  # [tiles, J / 32, 2, 32, 8]
    joint_bias: torch.Tensor  # float32 [tiles, 16]
    matrices: torch.Tensor  # [H / 8, 2L - 1, 2, H / 32, 2, 32, 8]
    bias: torch.Tensor  # float32 [L, H, 4], by gate
    label_gates: torch.Tensor  # float32 [V + 1, H, 4], W_ih embedding + bias of layer 0, by gate
    prediction: torch.Tensor  # [J / 16, H / 32, 2, 32, 8]
    prediction_bias: torch.Tensor  # float32 [J]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights that every label step multiplies with."""
        return sum(
            tensor.numel() * tensor.element_size() for tensor in (self.joint, self.matrices, self.prediction)
        )


class ModelArguments(ctypes.Structure):
    """``struct Model`` of the kernels."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("joint", "joint_bias", "matrices", "bias", "label_gates", "pred", "pred_bias")
    )


def model_arguments(packed: PackedWeights) -> ModelArguments:
    """Addresses of ``packed``, which has to outlive them."""
    return ModelArguments(
        packed.joint.data_ptr(),
        packed.joint_bias.data_ptr(),
        packed.matrices.data_ptr(),
        packed.bias.data_ptr(),
        packed.label_gates.data_ptr(),
        packed.prediction.data_ptr(),
        packed.prediction_bias.data_ptr(),
    )


def pack_fragments(matrix: torch.Tensor) -> torch.Tensor:
    """``[16 * tiles, 32 * pairs]`` as ``[tiles, pairs, 2 steps, 32 lanes, 8]``."""
    rows, width = matrix.shape
    #                     tile     half row   pair     quad step part two
    blocks = matrix.reshape(rows // 16, 2, 8, width // 32, 4, 2, 2, 2)
    # lane = (row, quad); a lane's numbers: part of k, then half, then the two neighbours
    return blocks.permute(0, 3, 5, 2, 4, 6, 1, 7).reshape(rows // 16, width // 32, 2, 32, 8).contiguous()


def by_unit(gates: torch.Tensor) -> torch.Tensor:
    """``[..., 4H]`` in PyTorch's gate order as ``[..., H, 4]``."""
    return gates.reshape(*gates.shape[:-1], 4, -1).transpose(-1, -2).contiguous()


def pack(weights: TdtWeights, shape: KernelShape, joint_blocks: int) -> PackedWeights:
    """All weights of a decoder whose joint is spread over ``joint_blocks`` blocks."""
    first = weights.layers[0]
    table = weights.embedding.float() @ first.w_ih.float().T + first.bias  # [V + 1, 4H]
    joint, joint_bias = _joint(weights, shape, joint_blocks * shape.joint_tiles)
    return PackedWeights(
        joint=joint,
        joint_bias=joint_bias,
        matrices=_matrices(weights),
        bias=torch.stack([by_unit(layer.bias) for layer in weights.layers]),
        label_gates=by_unit(table),
        prediction=pack_fragments(weights.prediction.weight),
        prediction_bias=weights.prediction.bias.float().contiguous(),
    )


def _joint(weights: TdtWeights, shape: KernelShape, tiles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Output rows in tiles: tokens and blank, padding to a whole tile, durations in a tile of their own."""
    output, vocabulary = weights.output, weights.vocabulary
    rows = output.weight.new_zeros(tiles * 16, shape.joint)
    bias = torch.zeros(tiles * 16, dtype=torch.float32, device=rows.device)
    start = (shape.output_tiles - 1) * 16
    for target, source in (
        (slice(0, vocabulary), slice(0, vocabulary)),
        (slice(start, start + len(shape.durations)), slice(vocabulary, None)),
    ):
        rows[target] = output.weight[source]
        bias[target] = output.bias[source].float()
    return pack_fragments(rows), bias.reshape(tiles, 16)


def _matrices(weights: TdtWeights) -> torch.Tensor:
    """W_hh of layer 0, then W_ih and W_hh of each layer above, of each block of units."""
    ordered = [weights.layers[0].w_hh]
    for layer in weights.layers[1:]:
        ordered += [layer.w_ih, layer.w_hh]
    return torch.stack([_by_block(matrix) for matrix in ordered], dim=1).contiguous()


def _by_block(matrix: torch.Tensor) -> torch.Tensor:
    """``[4H, H]`` as ``[H / 8, 2 tiles, fragments]``: rows of a block are gate-major over its units."""
    width = matrix.shape[1]
    blocks = matrix.reshape(4, -1, UNITS_PER_BLOCK, width).transpose(0, 1)  # [H / 8, 4, 8, H]
    fragments = pack_fragments(blocks.reshape(-1, width))
    return fragments.reshape(-1, 2, *fragments.shape[1:])


def initial_recurrent(weights: TdtWeights, hidden: torch.Tensor) -> torch.Tensor:
    """``W_hh h (+ b above layer 0)`` of hidden states ``[B, L, H]``: float32 ``[B, L, H, 4]``, by gate."""
    gates = []
    for index, layer in enumerate(weights.layers):
        product = hidden[:, index].float() @ layer.w_hh.float().T  # [B, 4H]
        gates.append(by_unit(product + layer.bias if index else product))
    return torch.stack(gates, dim=1).contiguous()
