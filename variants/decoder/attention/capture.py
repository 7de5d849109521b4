"""Work of the device that is recorded once and repeated: a CUDA graph, or the work itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from harness.errors import HarnessError

Work = Callable[[], None]
"""Reads and writes tensors that stay where they are, and touches the host nowhere."""

_WARM_UP_RUNS = 3  # cuBLAS chooses kernels and allocates workspaces in the first, never during capture


class Recorder(Protocol):
    @property
    def captures(self) -> int:
        """How often it has recorded."""
        ...

    def record(self, work: Work, what: str) -> Work:
        """``work`` to repeat, whose first runs are behind it."""
        ...


class CudaGraphs:
    """Graphs of one memory pool: they never run at the same time, so one may use what another has used."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self.captures = 0

    @torch.inference_mode()
    def record(self, work: Work, what: str) -> Work:
        """Raises ``HarnessError`` where ``work`` does what a graph cannot hold."""
        graph = torch.cuda.CUDAGraph()
        try:
            self._warm_up(work)
            # Only this thread's calls belong to the graph; a monitor beside it may go on.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            raise HarnessError(f"capture of {what} failed: {error}") from error
        self.captures += 1
        return graph.replay

    def _warm_up(self, work: Work) -> None:
        """On a stream of its own, as capture needs it."""
        main = torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                work()
        main.wait_stream(side)


class Uncaptured:
    """The work itself: what a graph of it has to compute."""

    def __init__(self) -> None:
        self.captures = 0

    def record(self, work: Work, what: str) -> Work:  # noqa: ARG002
        self.captures += 1
        return work
