"""Where a number comes from: code, packages, machine. Everything that could explain a difference."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from harness.host import cpu_model as cpu_model
from harness.nvml import FIRST, Device, open_nvml, reading, used_devices
from harness.record import Git, Gpu

#: Packages whose version can change a measurement or an output.
PACKAGES = (
    "torch",
    "nemo_toolkit",
    "numpy",
    "av",
    "soxr",
    "onnxruntime",
    "silero-vad",
    "webrtcvad-wheels",
    "webrtc-noise-gain",
    "espeakng-loader",
    "tensorrt",
    "cuda-bindings",
    "triton",
    "openai-whisper",
    "faster-whisper",
    "ctranslate2",
    "pyzmq",
    "uvloop",
)

_SOURCES = frozenset({".py", ".cu", ".cuh", ".json", ".safetensors", ".model"})


def command_line() -> tuple[str, ...]:
    """The command that made the run, without the path of this machine's interpreter."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # null for a script that is no module
    module = "harness" if spec is None else spec.name.removesuffix(".__main__")
    return ("python", "-m", module, *sys.argv[1:])


def package_versions() -> dict[str, str]:
    """Versions of the installed packages among ``PACKAGES``."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> Git:
    """Commit and dirtiness of the checkout (null outside one) and a hash of the code as it is."""
    root = Path(harness.__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    commit, dirty = None, None
    if (root / ".git").exists():
        try:
            commit, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
        except (OSError, subprocess.SubprocessError):
            commit, dirty = None, None
    return Git(commit, dirty, source_hash())


def source_hash() -> str:
    """A hash of every source file of ``harness`` and ``variants``, whether committed or not.

    It identifies the code where there is no git, and tells edited code from committed code.
    """
    package = Path(harness.__file__).resolve().parent
    digest = hashlib.sha256()
    for folder in (package, package.parent / "variants"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SOURCES and path.is_file():
                digest.update(str(path.relative_to(package.parent)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus(chosen: Sequence[int] = FIRST) -> tuple[Gpu, ...]:
    """The devices that a run computes on, through NVML; empty where there is none."""
    with open_nvml() as nvml:
        devices = [] if nvml is None else used_devices(nvml, chosen=chosen)
        return tuple(_gpu(nvml, device) for device in devices)


def _gpu(nvml: Any, device: Device) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(device.handle)
    limit_mw = reading(nvml, nvml.nvmlDeviceGetPowerManagementLimit, device.handle)
    return Gpu(
        name=nvml.nvmlDeviceGetName(device.handle),
        driver=nvml.nvmlSystemGetDriverVersion(),
        memory_bytes=int(memory.total),
        count=nvml.nvmlDeviceGetCount(),
        compute_capability=".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(device.handle))),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        uuid=device.uuid,
    )


def python_version() -> str:
    return platform.python_version()


def os_name() -> str:
    return platform.platform()
