"""The profilers. A run under one of them is marked as profiled and is never compared."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import UnavailableError


@dataclass(frozen=True)
class TorchOptions:
    record_shapes: bool = True
    """Note the shapes of each operator's inputs."""


@dataclass(frozen=True)
class NsysOptions:
    trace: str = "cuda,nvtx,osrt"
    """What ``nsys profile --trace`` takes."""


@contextlib.contextmanager
def traced(config: RunConfig, path: str | None) -> Iterator[None]:
    """Record a Chrome/Perfetto trace of the block into ``path`` where ``profiler=torch``."""
    if config.profiler.name != "torch" or path is None:
        yield
        return
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, **config.profiler.options) as profile:
        yield
    profile.export_chrome_trace(path)


def nsys_command(options: Mapping[str, Any], output: str, command: Sequence[str]) -> list[str]:
    """``command`` under Nsight Systems. Raises ``UnavailableError`` with the command to run by hand
    on a machine that has it."""
    nsys = [
        "nsys",
        "profile",
        f"--trace={options['trace']}",
        "--sample=none",
        "--force-overwrite=true",
        f"--output={output}",
    ]
    if shutil.which("nsys") is None:
        raise UnavailableError(
            "profiler=nsys: Nsight Systems (nsys) is not on the PATH. Install it, or run this where it is: "
            f"{shlex.join(nsys)} python -m harness …"
        )
    return [*nsys, *command]
