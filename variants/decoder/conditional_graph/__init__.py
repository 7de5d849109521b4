"""A greedy TDT decoder that is one CUDA graph with a conditional WHILE node; ``kernels.cu`` holds its body.

The host launches the graph once per call and takes no part in the loop: a kernel of the body sets the
condition. The graph is built once. Sizes and addresses of a call lie in device memory, so a larger or
a smaller call needs no new capture, and the work of an iteration follows the utterances still active.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.errors import UnavailableError
from variants.cuda.compiler import Cubin
from variants.cuda.graphs import KernelNode, WhileGraph
from variants.cuda.kernels import Module, driver_version
from variants.decoder.gpu.decoding import BatchArguments, GpuDecoder, RunReport
from variants.decoder.gpu.kernels import require_gpu, tdt_kernels
from variants.decoder.gpu.packing import ModelArguments, PackedWeights, model_arguments, pack
from variants.decoder.gpu.shape import KernelShape, kernel_shape
from variants.decoder.options import ConditionalGraph
from variants.decoder.weights import extract

if TYPE_CHECKING:
    from harness.protocols import Evidence, ShapePlan
    from variants.models.types import TdtModel

NAME = "conditional_graph"
_CAPABILITY = (8, 0)
_JOINT_TILES = 4
_DRIVER_VERSION = 12040  # conditional nodes (12.3), and their handles in kernels of a loaded module


def build(model: TdtModel, options: ConditionalGraph, plan: ShapePlan) -> GpuDecoder:
    """The decoder of ``model``: compiles (or loads) its kernels, uploads weights, builds the graph.

    Raises ``UnavailableError`` where the GPU or the driver lacks what the graph needs.
    """
    capability = require_gpu(NAME, model.device, _CAPABILITY)
    _require_driver()
    weights = extract(model)
    shape = kernel_shape(
        weights, slots=options.slots, columns=options.columns, joint_tiles=_JOINT_TILES, decoder=NAME
    )
    source = Path(__file__).with_name("kernels.cu")
    cubin = tdt_kernels(source, shape.macros(), capability, options.cache_dir, plan.progress)
    packed = pack(weights, shape, _joint_blocks(shape))
    return GpuDecoder(
        model,
        weights,
        shape,
        GraphLauncher(cubin, shape, packed, options.unroll),
        columns=options.columns,
        lookahead=options.lookahead,
    )


def _require_driver() -> None:
    version = driver_version()
    if version < _DRIVER_VERSION:
        raise UnavailableError(
            f"decoder={NAME} needs a driver for CUDA 12.4 or newer (conditional nodes), this one is for "
            f"{version // 1000}.{version % 1000 // 10}: update the NVIDIA driver"
        )


def _joint_blocks(shape: KernelShape) -> int:
    return -(-shape.output_tiles // shape.joint_tiles)


class _Search(ctypes.Structure):
    """``struct Search`` of ``kernels.cu``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("control", "best", "hidden", "prediction", "recurrent", "cell", "iteration")
    )


class GraphLauncher:
    """``Launcher``: copies a call's arguments to the device and launches the graph."""

    def __init__(self, cubin: Cubin, shape: KernelShape, packed: PackedWeights, unroll: int) -> None:
        self._cubin, self._packed, self._unroll = cubin, packed, unroll
        device = packed.joint.device
        self._buffers = _search_buffers(shape, device)
        self._module = Module(cubin.image)
        size = ctypes.sizeof(BatchArguments)
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        self._call = torch.zeros(size, dtype=torch.uint8, device=device)
        self._graph = WhileGraph()
        self._build(shape, packed)
        self._conditional_nodes = self._graph.conditional_nodes()

    def launch(self, batch: BatchArguments, stream: int) -> None:
        ctypes.memmove(self._host.data_ptr(), ctypes.addressof(batch), ctypes.sizeof(batch))
        self._call.copy_(self._host, non_blocking=True)
        self._graph.launch(stream)

    def finished(self, report: RunReport) -> None:
        """Nothing to do: the graph begins every call from its own first node."""

    def evidence(self) -> Evidence:
        return {
            "conditional_nodes": self._conditional_nodes,
            "kernels_per_iteration": self._graph.kernels_per_iteration,
            "steps_per_iteration": self._unroll,
            "graph_launches_per_call": 1,
            "graph_builds": 1,
            "kernel_key": self._cubin.key,
            "kernel_cached": self._cubin.cached,
            "weight_bytes_per_iteration": self._packed.resident_bytes,
        }

    def _build(self, shape: KernelShape, packed: PackedWeights) -> None:
        threads = 32 * shape.warps
        batch = ctypes.c_void_p(self._call.data_ptr())
        search = _Search(*(tensor.data_ptr() for tensor in self._buffers))
        model: ModelArguments = model_arguments(packed)
        kernel = self._module.kernel
        upper = [
            KernelNode(
                kernel("upper_layer"),
                2 * shape.unit_blocks,
                threads,
                batch,
                search,
                model,
                ctypes.c_int(layer),
            )
            for layer in range(1, shape.layers)
        ]
        body = [
            KernelNode(kernel("evaluate_joint"), _joint_blocks(shape), threads, batch, search, model),
            KernelNode(
                kernel("advance"), shape.unit_blocks, threads, batch, search, model, self._graph.condition
            ),
            *upper,
            KernelNode(
                kernel("project"), shape.pred_tiles + shape.unit_blocks, threads, batch, search, model
            ),
        ]
        self._graph.build([KernelNode(kernel("begin"), 1, threads, batch, search)], body * self._unroll)


def _search_buffers(shape: KernelShape, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Static memory for the largest call, in the order of ``struct Search``."""
    dtype = torch.bfloat16 if shape.bfloat16 else torch.float16
    control_words = 12 + 11 * shape.slots  # struct Control of tdt.cuh
    state = (shape.layers, shape.slots, shape.hidden)
    return (
        torch.zeros(2, control_words, dtype=torch.int32, device=device),
        torch.zeros(2, shape.columns, 2, dtype=torch.int32, device=device),
        torch.zeros(*state, dtype=dtype, device=device),
        torch.zeros(shape.slots, shape.joint, dtype=dtype, device=device),
        torch.zeros(*state, 4, dtype=torch.float32, device=device),
        torch.zeros(*state, dtype=torch.float32, device=device),
        torch.zeros(2, dtype=torch.int32, device=device),
    )
