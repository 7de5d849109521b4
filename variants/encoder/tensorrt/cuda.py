"""The few calls of the CUDA runtime that running an engine takes, through cuda-bindings."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from harness.errors import HarnessError, UnavailableError


def runtime() -> Any:
    """``cuda.bindings.runtime`` (its name since 12.6). Raises ``UnavailableError`` where it is missing."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UnavailableError("the Python package 'cuda-bindings' is not installed: pip install '.[gpu]'")


def call(function: Any, *arguments: Any) -> Any:
    """Call and return the results without the status. Raises ``HarnessError`` naming the function."""
    status, *results = function(*arguments)
    if int(status) != 0:
        name = getattr(function, "__name__", str(function))
        raise HarnessError(f"{name} failed: {getattr(status, 'name', status)}")
    return results[0] if len(results) == 1 else tuple(results)


class Gpu:
    """The current device of this process."""

    def __init__(self) -> None:
        self._rt = runtime()
        try:
            count = call(self._rt.cudaGetDeviceCount)
        except HarnessError as error:
            raise UnavailableError(f"no NVIDIA GPU with a working driver was found ({error})") from error
        if count == 0:
            raise UnavailableError("no NVIDIA GPU was found")

    def name(self) -> str:
        """Product name and compute capability: engines are built for exactly that."""
        properties = call(self._rt.cudaGetDeviceProperties, call(self._rt.cudaGetDevice))
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return f"{name.strip(chr(0))} sm_{properties.major}{properties.minor}"

    def memory_used(self) -> int:
        """Bytes in use on the device, by anybody."""
        free, total = call(self._rt.cudaMemGetInfo)
        return int(total) - int(free)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes, aligned for TensorRT (cudaMalloc aligns to 256)."""
        return int(call(self._rt.cudaMalloc, max(size, 1)))

    def free(self, address: int) -> None:
        call(self._rt.cudaFree, address)

    def create_stream(self) -> int:
        return int(call(self._rt.cudaStreamCreateWithFlags, self._rt.cudaStreamNonBlocking))

    def wait(self, stream: int) -> None:
        call(self._rt.cudaStreamSynchronize, stream)

    def upload(self, array: np.ndarray, address: int, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._rt.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, address: int, array: np.ndarray, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._rt.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, kind, stream)

    def begin_capture(self, stream: int) -> None:
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(self._rt.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> Any:
        """The captured work as an executable graph. Raises ``HarnessError`` where it cannot be one."""
        graph = call(self._rt.cudaStreamEndCapture, stream)
        try:
            return call(self._rt.cudaGraphInstantiate, graph, 0)
        finally:
            call(self._rt.cudaGraphDestroy, graph)

    def launch(self, graph: Any, stream: int) -> None:
        call(self._rt.cudaGraphLaunch, graph, stream)
