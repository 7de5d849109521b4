"""What the numbers of a benchmark belong to: the same facts from each, without a path of this machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.host import cpu_model
from harness.nvml import open_nvml

PACKAGES = (
    "torch", "nemo_toolkit", "cuda-bindings", "nvidia-cuda-nvrtc", "tensorrt", "onnx", "numpy", "pyzmq",
    "av", "soundfile", "miniaudio",
)  # fmt: skip


def bench_provenance(module: str, arguments: Sequence[str], commit: str | None) -> dict[str, Any]:
    """``module`` was run with ``arguments``, of which paths keep their last part; ``commit`` is what the
    user says it is, for code that was copied to where there is no repository."""
    return {
        "command": f"python -m {module} {shlex.join(map(_without_folder, arguments))}".rstrip(),
        "commit": commit or _commit(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
        "kernel": platform.release(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_average_at_start": os.getloadavg()[0],
        **_gpu(),
    }


def _without_folder(argument: str) -> str:
    return Path(argument).name if "/" in argument else argument


def _commit() -> str | None:
    """Of the repository that this file lies in, with a mark where files were changed; null outside one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, str | None]:
    """Name and driver of the first GPU; null where there is none, or no bindings that could tell."""
    nothing: dict[str, str | None] = {"gpu": None, "driver": None}
    try:
        with open_nvml() as nvml:
            if nvml is None or nvml.nvmlDeviceGetCount() == 0:
                return nothing
            name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))
            return {"gpu": str(name), "driver": str(nvml.nvmlSystemGetDriverVersion())}
    except ImportError:  # an interpreter that holds TensorRT and little else
        return nothing
