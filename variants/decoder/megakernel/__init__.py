"""A greedy TDT decoder that is one persistent kernel; ``kernel.cu`` explains how it works.

Every weight of the prediction network and the joint stays in the registers and the shared memory of the
streaming multiprocessors for the whole call; utterances beyond the kernel's slots take the place of
finished ones without another launch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.errors import UnavailableError
from variants.cuda.compiler import Cubin
from variants.cuda.kernels import Arguments, CooperativeLaunch, Module, device_attribute, resident_blocks
from variants.decoder.gpu.decoding import BatchArguments, GpuDecoder, RunReport
from variants.decoder.gpu.kernels import require_gpu, tdt_kernels
from variants.decoder.gpu.packing import PackedWeights, model_arguments, pack
from variants.decoder.gpu.shape import KernelShape, kernel_shape
from variants.decoder.options import Megakernel
from variants.decoder.weights import extract

if TYPE_CHECKING:
    from harness.protocols import Evidence, ShapePlan
    from variants.models.types import TdtModel

NAME = "megakernel"
_CAPABILITY = (8, 0)
_LAST_STEP = 1 << 31
_MAX_JOINT_TILES = 5  # 80 of a thread's registers hold joint weights


def build(model: TdtModel, options: Megakernel, plan: ShapePlan) -> GpuDecoder:
    """The decoder of ``model``. Compiles (or loads) its kernel and uploads the weights in kernel order.

    Raises ``UnavailableError`` where the GPU is missing, too old, or too small for the weights.
    """
    capability = require_gpu(NAME, model.device, _CAPABILITY)
    weights = extract(model)
    properties = torch.cuda.get_device_properties(model.device)
    blocks = properties.multi_processor_count
    tiles = -(-weights.vocabulary // 16) + 1
    shape = kernel_shape(
        weights,
        slots=options.slots,
        columns=options.columns,
        joint_tiles=-(-tiles // blocks),
        decoder=NAME,
    )
    layout = plan_layout(shape, blocks)
    number = torch.cuda.current_device() if model.device.index is None else model.device.index
    # Static and dynamic together, what one block may have at most.
    shared_bytes = device_attribute(number, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
    check_capacity(shape, layout, shared_bytes, properties.name)
    macros = {
        **shape.macros(),
        **layout.macros(),
        "SPIN_LIMIT": str(options.spin_limit),
        "DIRECT_COLUMNS": str(options.direct_columns),
        "PROFILE": str(0 if options.profile_block is None else options.profile_block + 1),
    }
    source = Path(__file__).with_name("kernel.cu")
    cubin = tdt_kernels(source, macros, capability, options.cache_dir, plan.progress)
    packed = pack(weights, shape, blocks)
    launcher = PersistentLauncher(cubin, shape, layout, packed)
    return GpuDecoder(model, weights, shape, launcher, columns=options.columns, lookahead=options.lookahead)


@dataclass(frozen=True, slots=True)
class Layout:
    """Shared memory of a block, in bytes, and who owns what. One block on each multiprocessor."""

    blocks: int
    matrix_bytes: int  # LSTM matrices of a block of units, a tile of the projection, or both
    prediction_offset: int
    dynamic_bytes: int

    def macros(self) -> dict[str, str]:
        return {
            "BLOCKS": str(self.blocks),
            "MATRIX_BYTES": str(self.matrix_bytes),
            "PRED_OFFSET": str(self.prediction_offset),
        }


def plan_layout(shape: KernelShape, blocks: int) -> Layout:
    """Blocks from the first own LSTM units, from the last own tiles of the prediction's projection."""
    tile_bytes = 2 * 16 * shape.hidden
    lstm_bytes = (2 * shape.layers - 1) * 2 * tile_bytes
    overlap = shape.unit_blocks + shape.pred_tiles > blocks
    offset = lstm_bytes if overlap else 0
    matrix_bytes = max(lstm_bytes, offset + tile_bytes)
    partial_bytes = 4 * shape.warps * 32 * max(4 * shape.joint_tiles, 16)
    state_bytes = shape.layers * shape.slots * 8 * (16 + 4)
    return Layout(blocks, matrix_bytes, offset, matrix_bytes + partial_bytes + state_bytes)


def check_capacity(shape: KernelShape, layout: Layout, shared_bytes: int, gpu: str) -> None:
    """Raise ``UnavailableError`` that names what the GPU lacks; nothing is computed elsewhere instead."""
    needed_blocks = max(shape.unit_blocks, shape.pred_tiles)
    static_bytes = 64 * shape.joint_tiles + 4 * shape.columns + 44 * shape.slots + 256
    needed = layout.dynamic_bytes + static_bytes
    if layout.blocks < needed_blocks:
        raise UnavailableError(
            f"decoder={NAME} needs {needed_blocks} multiprocessors for these weights, {gpu} has "
            f"{layout.blocks}; use decoder=conditional_graph"
        )
    if shape.joint_tiles > _MAX_JOINT_TILES:
        raise UnavailableError(
            f"decoder={NAME} keeps {shape.joint_tiles} joint tiles in each multiprocessor's registers, "
            f"{_MAX_JOINT_TILES} fit: {gpu} is too small; use decoder=conditional_graph"
        )
    if needed > shared_bytes:
        raise UnavailableError(
            f"decoder={NAME} needs {needed:,} bytes of shared memory on each multiprocessor, {gpu} has "
            f"{shared_bytes:,}; lower decoder.options.slots or use decoder=conditional_graph"
        )


class _Exchange(ctypes.Structure):
    """``struct Exchange`` of ``kernel.cu``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("hidden", "prediction", "candidates", "choices", "step")
    )


class PersistentLauncher:
    """``Launcher``: one cooperative launch per call."""

    def __init__(self, cubin: Cubin, shape: KernelShape, layout: Layout, packed: PackedWeights) -> None:
        self._cubin, self._layout, self._packed, self._layers = cubin, layout, packed, shape.layers
        self._module = Module(cubin.image)
        kernel = self._module.kernel("tdt_decode", layout.dynamic_bytes)
        threads = 32 * shape.warps
        device = packed.joint.device
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        resident = multiprocessors * resident_blocks(kernel, threads, layout.dynamic_bytes)
        if resident < layout.blocks:
            gpu = torch.cuda.get_device_name(device)
            raise UnavailableError(
                f"decoder={NAME} needs {layout.blocks} resident blocks, {gpu} holds {resident}; "
                "use decoder=conditional_graph"
            )
        self._registers = self._module.attribute(kernel, "NUM_REGS")
        self._launch = CooperativeLaunch(kernel, layout.blocks, threads, layout.dynamic_bytes)
        self._words = _exchange_words(shape, layout.blocks, device)
        self._batch = BatchArguments()
        exchange = _Exchange(*(tensor.data_ptr() for tensor in self._words))
        self._arguments = Arguments(model_arguments(packed), self._batch, exchange)

    def launch(self, batch: BatchArguments, stream: int) -> None:
        ctypes.pointer(self._batch)[0] = batch
        self._launch(self._arguments, stream)

    def finished(self, report: RunReport) -> None:
        """Steps number words for good; long before the number wraps, begin again."""
        if report.rest[0] > _LAST_STEP:
            for words in self._words:
                words.zero_()

    def evidence(self) -> Evidence:
        blocks = self._layout.blocks
        return {
            "kernel": "tdt_decode",
            "kernel_key": self._cubin.key,
            "kernel_cached": self._cubin.cached,
            "launches_per_call": 1,
            "blocks": blocks,
            "registers_per_thread": self._registers,
            "dynamic_shared_bytes": self._layout.dynamic_bytes,
            "resident_weight_bytes": self._packed.resident_bytes,
            "resident_weight_bytes_per_sm": self._packed.resident_bytes // blocks,
            "grid_barriers": 0,
            "hops_per_label": 3 + self._layers,
        }


def _exchange_words(shape: KernelShape, blocks: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Zeroed once: a step's number never returns, so what earlier calls left is never taken for new."""

    def words(*sizes: int) -> torch.Tensor:
        return torch.zeros(*sizes, 2, dtype=torch.int32, device=device)

    return (
        words(shape.layers, shape.slots, shape.hidden // 2),
        words(shape.slots, shape.joint // 2),
        words(2, shape.columns, blocks + 1),
        words(2, shape.columns),
        torch.zeros(1, dtype=torch.int32, device=device),
    )
