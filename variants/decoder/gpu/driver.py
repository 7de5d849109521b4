"""The CUDA driver, with exceptions: the only module that touches ``cuda.bindings``.

Works with cuda-bindings 12.6 to 13.x on the primary context that PyTorch uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from harness.errors import HarnessError, UnavailableError


class CudaError(HarnessError):
    """A driver or compiler call failed; the message holds the call, the code and what it means."""


def bindings() -> tuple[Any, Any]:
    """``(driver, nvrtc)``. Raises ``UnavailableError`` where cuda-python is not installed."""
    try:
        from cuda.bindings import driver, nvrtc
    except ImportError as error:
        raise UnavailableError(
            f"cuda-python is missing ({error}): install it with pip install 'cuda-python>=12.6'"
        ) from error
    return driver, nvrtc


def require_gpu(decoder: str, device: torch.device, capability: tuple[int, int]) -> tuple[int, int]:
    """The device's compute capability. Raises ``UnavailableError`` without a GPU that is new enough."""
    if not torch.cuda.is_available():
        raise UnavailableError(f"decoder={decoder} needs an NVIDIA GPU; torch finds none here")
    if device.type != "cuda":
        raise UnavailableError(f"decoder={decoder} needs the model on the GPU; set model.device=cuda")
    found = torch.cuda.get_device_capability(device)
    if found < capability:
        raise UnavailableError(
            f"decoder={decoder} needs compute capability {capability[0]}.{capability[1]}, "
            f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}"
        )
    return found


def call(function: Any, *arguments: Any) -> Any:
    """Call a driver or compiler function; its result, or a tuple of them, or None."""
    status, *results = function(*arguments)
    if int(status) != 0:
        raise CudaError(f"{getattr(function, '__name__', function)} failed: {_describe(status)}")
    return results[0] if len(results) == 1 else tuple(results) or None


def _describe(status: Any) -> str:
    driver, _ = bindings()
    if isinstance(status, driver.CUresult):
        _, text = driver.cuGetErrorString(status)
        return f"{status.name} ({text.decode() if text else 'no description'})"
    return str(getattr(status, "name", status))


class Arguments:
    """Kernel arguments as the driver wants them: an array of pointers to the values.

    Values are ctypes scalars or structures; this object keeps them alive, and later changes to a
    structure are seen by the next launch.
    """

    def __init__(self, *values: Any) -> None:
        self._values = values
        self._pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))

    @property
    def address(self) -> int:
        return ctypes.addressof(self._pointers)


class Module:
    """A loaded cubin. Kernels stay valid as long as it lives."""

    def __init__(self, image: bytes) -> None:
        self._driver, _ = bindings()
        torch.cuda.current_stream()  # creates and binds the primary context
        self._image = image
        self._module = call(self._driver.cuModuleLoadData, image)

    def kernel(self, name: str, dynamic_shared_bytes: int = 0) -> Any:
        """The kernel ``name``, allowed to use so much dynamic shared memory."""
        kernel = call(self._driver.cuModuleGetFunction, self._module, name.encode())
        if dynamic_shared_bytes:
            attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call(self._driver.cuFuncSetAttribute, kernel, attribute, dynamic_shared_bytes)
        return kernel

    def attribute(self, kernel: Any, name: str) -> int:
        """A ``CU_FUNC_ATTRIBUTE_*`` of a kernel: ``NUM_REGS``, ``SHARED_SIZE_BYTES`` …"""
        attribute = getattr(self._driver.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
        return int(call(self._driver.cuFuncGetAttribute, attribute, kernel))


class CooperativeLaunch:
    """A kernel whose blocks are all resident at once, or whose launch fails."""

    def __init__(self, kernel: Any, blocks: int, threads: int, dynamic_shared_bytes: int) -> None:
        self._driver, _ = bindings()
        self._kernel, self._blocks, self._threads, self._shared = (
            kernel,
            blocks,
            threads,
            dynamic_shared_bytes,
        )

    def __call__(self, arguments: Arguments, stream: int) -> None:
        call(
            self._driver.cuLaunchCooperativeKernel,
            self._kernel,
            self._blocks,
            1,
            1,
            self._threads,
            1,
            1,
            self._shared,
            stream,
            arguments.address,
        )


def max_resident_blocks(kernel: Any, threads: int, dynamic_shared_bytes: int, device: torch.device) -> int:
    """Blocks of ``kernel`` that the device holds at once."""
    driver, _ = bindings()
    per_sm = call(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor, kernel, threads, dynamic_shared_bytes)
    return int(per_sm) * torch.cuda.get_device_properties(device).multi_processor_count


def shared_bytes_per_block(device: torch.device) -> int:
    """Shared memory that one block may have at most, static and dynamic together."""
    driver, _ = bindings()
    torch.cuda.current_stream(device)  # creates the primary context
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(call(driver.cuDeviceGetAttribute, attribute, call(driver.cuDeviceGet, index)))


class WhileGraph:
    """``prologue``, then ``body`` again and again while the condition that the body sets is not zero.

    Kernels are nodes of an instantiated CUDA graph with one conditional WHILE node: a launch is one call
    and the host takes no part in the loop. Kernel arguments are fixed; what varies lies in device memory.
    """

    def __init__(self) -> None:
        self._driver, _ = bindings()
        self._graph = call(self._driver.cuGraphCreate, 0)
        context = call(self._driver.cuCtxGetCurrent)
        self._context = context
        default = self._driver.CU_GRAPH_COND_ASSIGN_DEFAULT
        self.handle = call(self._driver.cuGraphConditionalHandleCreate, self._graph, context, 1, default)
        self._kept: list[Arguments] = []
        self._executable: Any = None
        self.kernels_per_iteration = 0

    @property
    def condition(self) -> ctypes.c_ulonglong:
        """The handle as a kernel argument."""
        return ctypes.c_ulonglong.from_address(self.handle.getPtr())

    def build(self, prologue: Sequence[KernelNode], body: Sequence[KernelNode]) -> None:
        """Add the nodes, each after the one before, and instantiate."""
        last = self._chain(self._graph, prologue)
        loop = self._add_while(last)
        self._chain(loop, body)
        self.kernels_per_iteration = len(body)
        self._executable = call(self._driver.cuGraphInstantiate, self._graph, 0)

    def launch(self, stream: int) -> None:
        call(self._driver.cuGraphLaunch, self._executable, stream)

    def conditional_nodes(self) -> int:
        """Conditional nodes that the driver reports in the graph."""
        _, count = call(self._driver.cuGraphGetNodes, self._graph, 0)
        nodes, _ = call(self._driver.cuGraphGetNodes, self._graph, count)
        conditional = self._driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        return sum(call(self._driver.cuGraphNodeGetType, node) == conditional for node in nodes)

    def _add_while(self, after: Any) -> Any:
        """A WHILE node; its body graph, to be filled."""
        parameters = self._driver.CUgraphNodeParams()
        parameters.type = self._driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        parameters.conditional.handle = self.handle
        parameters.conditional.type = self._driver.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE
        parameters.conditional.size = 1
        parameters.conditional.ctx = self._context
        # CUDA 13 added a parameter for edge data.
        edges = [None] if _major_version() >= 13 else []
        call(self._driver.cuGraphAddNode, self._graph, [after], *edges, 1, parameters)
        return parameters.conditional.phGraph_out[0]

    def _chain(self, graph: Any, nodes: Sequence[KernelNode]) -> Any:
        last = None
        for node in nodes:
            parameters = self._driver.CUDA_KERNEL_NODE_PARAMS()
            parameters.func = node.kernel
            parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ = node.blocks, 1, 1
            parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ = node.threads, 1, 1
            parameters.sharedMemBytes = 0
            parameters.kernelParams = node.arguments.address
            self._kept.append(node.arguments)
            before: list[Any] = [last] if last is not None else []
            last = call(self._driver.cuGraphAddKernelNode, graph, before, len(before), parameters)
        return last


class KernelNode:
    """One launch inside a graph."""

    __slots__ = ("arguments", "blocks", "kernel", "threads")

    def __init__(self, kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
        self.kernel, self.blocks, self.threads = kernel, blocks, threads
        self.arguments = Arguments(*arguments)


def _major_version() -> int:
    import cuda.bindings

    return int(cuda.bindings.__version__.split(".")[0])
