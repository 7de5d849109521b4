"""What a choice needs from the machine, checked before anything heavy is imported.

A need is one of ``gpu``, ``compute_capability>=9.0``, ``cuda>=12.4`` (what the driver supports),
``package:NAME`` (``package:A|B``: either), ``python>=3.12`` and ``linux``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from harness.errors import UsageError
from harness.nvml import open_nvml, visible_devices

_COMPARISON = re.compile(r"(?P<what>[a-z_]+)>=(?P<version>\d+(?:\.\d+)*)")
#: What is to be installed, where a package is imported under another name.
_DISTRIBUTIONS = MappingProxyType(
    {
        "whisper": "openai-whisper",
        "faster_whisper": "faster-whisper",
        "cuda.bindings": "cuda-python",
        "nemo": "nemo_toolkit[asr]",
        "onnx_asr": "onnx-asr",
        "sherpa_onnx": "sherpa-onnx",
    }
)


@dataclass(frozen=True)
class Missing:
    """A need that this machine does not meet, in words that name the remedy."""

    need: str
    message: str


class Machine:
    """What this machine offers. GPU facts come from NVML, which needs no CUDA context."""

    @cached_property
    def compute_capability(self) -> tuple[int, ...] | None:
        return self._first_gpu(lambda nvml, gpu: tuple(nvml.nvmlDeviceGetCudaComputeCapability(gpu)))

    @cached_property
    def visible_gpus(self) -> int:
        """Devices that CUDA shows to this process."""
        with open_nvml() as nvml:
            return 0 if nvml is None else len(visible_devices(nvml, os.environ.get("CUDA_VISIBLE_DEVICES")))

    @cached_property
    def cuda_driver(self) -> tuple[int, ...] | None:
        """The newest CUDA release that the driver supports, as (major, minor)."""

        def read(nvml: Any, _gpu: Any) -> tuple[int, ...]:
            version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
            return version // 1000, version % 1000 // 10

        return self._first_gpu(read)

    def has_package(self, name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # a parent package is missing
            return False

    def _first_gpu(self, read: Callable[[Any, Any], tuple[int, ...]]) -> tuple[int, ...] | None:
        with open_nvml() as nvml:
            if nvml is None or nvml.nvmlDeviceGetCount() == 0:
                return None
            return read(nvml, nvml.nvmlDeviceGetHandleByIndex(0))


def missing(needs: Iterable[str], machine: Machine) -> list[Missing]:
    """The needs that ``machine`` does not meet. Raises ``UsageError`` for an unknown kind of need."""
    found = (_check(need, machine) for need in needs)
    return [Missing(need, message) for need, message in found if message is not None]


def _check(need: str, machine: Machine) -> tuple[str, str | None]:
    if need == "gpu":
        return need, None if machine.compute_capability else "no NVIDIA GPU with a working driver was found"
    if need == "linux":
        return need, None if sys.platform == "linux" else "it uses Linux system calls; run it on Linux"
    if need.startswith("package:"):
        packages = need.removeprefix("package:").split("|")
        if any(map(machine.has_package, packages)):
            return need, None
        lacking = " or ".join(repr(_DISTRIBUTIONS.get(package, package)) for package in packages)
        return need, f"the Python package {lacking} is not installed"
    if match := _COMPARISON.fullmatch(need):
        return need, _check_version(match["what"], match["version"], machine)
    raise UsageError(
        f"needs: {need!r} is none of gpu, linux, package:NAME, compute_capability>=X, cuda>=X, python>=X"
    )


def _check_version(what: str, version: str, machine: Machine) -> str | None:
    offered: dict[str, Callable[[], tuple[int, ...] | None]] = {
        "python": lambda: tuple(sys.version_info[:2]),
        "compute_capability": lambda: machine.compute_capability,
        "cuda": lambda: machine.cuda_driver,
    }
    if what not in offered:
        raise UsageError(f"needs: {what!r} cannot be compared; use {', '.join(offered)}")
    have = offered[what]()
    if have is None:
        return f"{what} {version} or newer is required and no NVIDIA GPU with a working driver was found"
    wanted = tuple(int(part) for part in version.split("."))
    if have >= wanted:
        return None
    return f"{what} {version} or newer is required; this machine has {'.'.join(map(str, have))}"
