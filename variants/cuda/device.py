"""Memory, streams, copies and captured graphs of the current device."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import UnavailableError
from variants.cuda.bindings import CudaError, call, load


class Gpu:
    """The current device of this process."""

    def __init__(self) -> None:
        self._rt = load("runtime")
        try:
            count = call(self._rt.cudaGetDeviceCount)
        except CudaError as error:
            raise UnavailableError(f"no NVIDIA GPU with a working driver was found ({error})") from error
        if count == 0:
            raise UnavailableError("no NVIDIA GPU was found")

    def name(self) -> str:
        """Product name and compute capability: engines are built for exactly that."""
        properties = self._properties()
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return f"{name.strip(chr(0))} sm_{properties.major}{properties.minor}"

    def capability(self) -> tuple[int, int]:
        """Compute capability."""
        properties = self._properties()
        return int(properties.major), int(properties.minor)

    def _properties(self) -> Any:
        return call(self._rt.cudaGetDeviceProperties, call(self._rt.cudaGetDevice))

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
        """The captured work as an executable graph. Raises ``CudaError`` where it cannot be one."""
        graph = call(self._rt.cudaStreamEndCapture, stream)
        try:
            return call(self._rt.cudaGraphInstantiate, graph, 0)
        finally:
            call(self._rt.cudaGraphDestroy, graph)

    def launch(self, graph: Any, stream: int) -> None:
        call(self._rt.cudaGraphLaunch, graph, stream)
