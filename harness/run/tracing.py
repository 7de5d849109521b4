"""The profilers. A run under one of them is marked as profiled and is never compared."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import UnavailableError


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
    record_shapes = bool(config.profiler.options.get("record_shapes", True))
    with torch.profiler.profile(activities=activities, record_shapes=record_shapes) as profile:
        yield
    profile.export_chrome_trace(path)


def nsys_command(options: Mapping[str, Any], output: str, command: Sequence[str]) -> list[str]:
    """``command`` under Nsight Systems. Raises ``UnavailableError`` with the command to run by hand
    on a machine that has it."""
    nsys = [
        "nsys",
        "profile",
        f"--trace={options.get('trace', 'cuda,nvtx,osrt')}",
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
