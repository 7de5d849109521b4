"""Device memory is host memory; a captured graph is the list of calls made meanwhile."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

cudaStreamNonBlocking = 1
cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

_blocks: dict[int, Any] = {}
_streams = itertools.count(7)
_capturing: dict[int, list[Callable[[], None]]] = {}


def submit(stream: int, work: Callable[[], None]) -> None:
    """Run now, or keep for the graph that is being captured on ``stream``."""
    if stream in _capturing:
        _capturing[stream].append(work)
    else:
        work()


def cudaGetDeviceCount() -> tuple[int, int]:
    return 0, 1


def cudaGetDevice() -> tuple[int, int]:
    return 0, 0


def cudaGetDeviceProperties(_device: int) -> tuple[int, Any]:
    """Of the compute capability that a test asks for."""
    major, minor = os.environ.get("STANDIN_CAPABILITY", "9.0").split(".")
    return 0, SimpleNamespace(name=b"Stand-in", major=int(major), minor=int(minor))


def cudaMemGetInfo() -> tuple[int, int, int]:
    used = sum(len(block) for block in _blocks.values())
    return 0, (1 << 34) - used, 1 << 34


def cudaMalloc(size: int) -> tuple[int, int]:
    block = ctypes.create_string_buffer(size)
    _blocks[ctypes.addressof(block)] = block
    return 0, ctypes.addressof(block)


def cudaFree(address: int) -> tuple[int]:
    return (0 if _blocks.pop(address, None) is not None else 1,)


def cudaStreamCreateWithFlags(_flags: int) -> tuple[int, int]:
    return 0, next(_streams)


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    return (900 if stream in _capturing else 0,)


def cudaMemcpyAsync(to: int, source: int, size: int, _kind: int, stream: int) -> tuple[int]:
    submit(stream, lambda: ctypes.memmove(to, source, size) and None)
    return (0,)


def cudaStreamBeginCapture(stream: int, _mode: int) -> tuple[int]:
    _capturing[stream] = []
    return (0,)


def cudaStreamEndCapture(stream: int) -> tuple[int, Any]:
    return 0, _capturing.pop(stream)


def cudaGraphInstantiate(graph: Any, _flags: int) -> tuple[int, Any]:
    return 0, list(graph)


def cudaGraphDestroy(_graph: Any) -> tuple[int]:
    return (0,)


def cudaGraphLaunch(graph: Any, stream: int) -> tuple[int]:
    for work in graph:
        submit(stream, work)
    return (0,)
