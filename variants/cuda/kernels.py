"""Loaded modules and launches of their kernels, on the context that is current: torch's, once a tensor lies
on the device."""

from __future__ import annotations

import ctypes
from typing import Any

from variants.cuda.bindings import call, load


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
        self._driver = load("driver")
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


class Launch:
    """A kernel of blocks that know nothing of each other."""

    def __init__(self, kernel: Any, threads: int, dynamic_shared_bytes: int) -> None:
        self._launch = load("driver").cuLaunchKernel
        self._kernel, self._threads, self._shared = kernel, threads, dynamic_shared_bytes

    def __call__(self, blocks: int, arguments: Arguments, stream: int) -> None:
        grid, block = (blocks, 1, 1), (self._threads, 1, 1)
        call(self._launch, self._kernel, *grid, *block, self._shared, stream, arguments.address, 0)


class CooperativeLaunch:
    """A kernel whose blocks are all resident at once, or whose launch fails."""

    def __init__(self, kernel: Any, blocks: int, threads: int, dynamic_shared_bytes: int) -> None:
        self._driver = load("driver")
        self._kernel, self._blocks, self._threads = kernel, blocks, threads
        self._shared = dynamic_shared_bytes

    def __call__(self, arguments: Arguments, stream: int) -> None:
        grid, block = (self._blocks, 1, 1), (self._threads, 1, 1)
        launch = self._driver.cuLaunchCooperativeKernel
        call(launch, self._kernel, *grid, *block, self._shared, stream, arguments.address)


def resident_blocks(kernel: Any, threads: int, dynamic_shared_bytes: int) -> int:
    """Blocks of ``kernel`` that one multiprocessor holds at once."""
    occupancy = load("driver").cuOccupancyMaxActiveBlocksPerMultiprocessor
    return int(call(occupancy, kernel, threads, dynamic_shared_bytes))


def device_attribute(device: int, name: str) -> int:
    """A ``CU_DEVICE_ATTRIBUTE_*`` of the device of that number."""
    driver = load("driver")
    call(driver.cuInit, 0)
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(call(driver.cuDeviceGetAttribute, attribute, call(driver.cuDeviceGet, device)))


def driver_version() -> int:
    """The newest CUDA that the installed driver serves: 12040 is 12.4."""
    return int(call(load("driver").cuDriverGetVersion))
