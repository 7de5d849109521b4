"""Sizes of a decoder's kernels: what a model asks for, and whether this GPU has room for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.errors import UnavailableError

if TYPE_CHECKING:
    from variants.decoder.weights import TdtWeights

UNITS_PER_BLOCK = 8
"""LSTM units whose 32 gate rows (two tensor-core tiles) one block owns."""
MAX_LOOKAHEAD = 8
WARPS = 8
"""Warps of a block: two on each of a multiprocessor's schedulers leave a thread 255 registers."""
_NUMBER_TYPES = (torch.float16, torch.bfloat16)
_MAX_UTTERANCES, _MAX_TOKENS, _MAX_DURATION = 1 << 16, 1 << 16, 1 << 8


@dataclass(frozen=True, slots=True)
class KernelShape:
    """Every size that the kernels are compiled for (``tdt.cuh`` explains each)."""

    hidden: int
    layers: int
    joint: int
    vocabulary: int
    durations: tuple[int, ...]
    max_symbols: int
    slots: int
    columns: int
    warps: int
    joint_tiles: int
    bfloat16: bool

    @property
    def unit_blocks(self) -> int:
        return self.hidden // UNITS_PER_BLOCK

    @property
    def pred_tiles(self) -> int:
        return self.joint // 16

    @property
    def output_tiles(self) -> int:
        """Tiles of 16 joint outputs: tokens and blank, then one tile of durations."""
        return -(-self.vocabulary // 16) + 1

    @property
    def state_width(self) -> int:
        """Numbers of one utterance's state: hidden and cell of each layer, and the projected output."""
        return 2 * self.layers * self.hidden + self.joint

    def macros(self) -> dict[str, str]:
        return {
            "HIDDEN": str(self.hidden),
            "LAYERS": str(self.layers),
            "JOINT": str(self.joint),
            "VOCAB": str(self.vocabulary),
            "BLANK": str(self.vocabulary - 1),
            "DURATIONS": str(len(self.durations)),
            "DURATION_VALUES": ",".join(map(str, self.durations)),
            "MAX_SYMBOLS": str(self.max_symbols),
            "SLOTS": str(self.slots),
            "COLUMNS": str(self.columns),
            "WARPS": str(self.warps),
            "JOINT_TILES": str(self.joint_tiles),
            "BF16": str(int(self.bfloat16)),
        }


def kernel_shape(
    weights: TdtWeights, *, slots: int, columns: int, joint_tiles: int, decoder: str
) -> KernelShape:
    """The shape for these weights. Raises ``UnavailableError`` where the kernels cannot compute them."""
    dtype = weights.output.weight.dtype
    if dtype not in _NUMBER_TYPES:
        raise UnavailableError(
            f"decoder={decoder} computes on tensor cores in 16 bits, the model is {dtype}: "
            "use model.precision=fp16 or bf16"
        )
    for name, width in (("prediction network", weights.hidden), ("joint", weights.joint)):
        if width % 32:
            raise UnavailableError(
                f"decoder={decoder} needs widths that are multiples of 32, the {name} has {width}; "
                "use decoder=nemo"
            )
    if (
        weights.vocabulary > _MAX_TOKENS
        or len(weights.durations) > 16
        or max(weights.durations) >= _MAX_DURATION
    ):
        raise UnavailableError(
            f"decoder={decoder} holds {_MAX_TOKENS} tokens and 16 durations below {_MAX_DURATION} frames; "
            "use decoder=nemo"
        )
    return KernelShape(
        hidden=weights.hidden,
        layers=len(weights.layers),
        joint=weights.joint,
        vocabulary=weights.vocabulary,
        durations=weights.durations,
        max_symbols=weights.max_symbols,
        slots=slots,
        columns=max(columns, slots, MAX_LOOKAHEAD),
        warps=WARPS,
        joint_tiles=joint_tiles,
        bfloat16=dtype == torch.bfloat16,
    )
