"""A graph whose loop runs on the device: kernels in a conditional WHILE node."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from variants.cuda.bindings import call, load, major_version
from variants.cuda.kernels import Arguments


class KernelNode:
    """One launch inside a graph."""

    __slots__ = ("arguments", "blocks", "kernel", "threads")

    def __init__(self, kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
        self.kernel, self.blocks, self.threads = kernel, blocks, threads
        self.arguments = Arguments(*arguments)


class WhileGraph:
    """``prologue``, then ``body`` again and again while the condition that the body sets is not zero.

    Kernels are nodes of an instantiated CUDA graph with one conditional WHILE node: a launch is one call
    and the host takes no part in the loop. Kernel arguments are fixed; what varies lies in device memory.
    """

    def __init__(self) -> None:
        self._driver = load("driver")
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
        edges = [None] if major_version() >= 13 else []
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
