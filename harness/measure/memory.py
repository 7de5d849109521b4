"""Peak memory of the process tree and of the GPU's allocator, read once at the end."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import psutil

from harness.record import Memory, Telemetry

_KIB = 1024


def peak_memory(telemetry: Telemetry | None = None) -> Memory:
    """Peaks so far. Reading them at the end costs the measurement nothing, unlike sampling.

    ``rss_bytes`` adds up each living process's own high-water mark (``VmHWM``): an upper bound of
    the tree's peak, in which shared pages count once per process. Children that have already ended
    are not in it. GPU figures are null in a process that has no CUDA context.
    """
    allocated, reserved = _torch_peaks()
    return Memory(_tree_rss_bytes(), allocated, reserved, _peak_used(telemetry))


def combine(memories: list[Memory]) -> Memory | None:
    """The largest of each figure over a run's processes, which do not live at the same time."""
    if not memories:
        return None
    return Memory(
        _largest([m.rss_bytes for m in memories]),
        _largest([m.gpu_allocated_bytes for m in memories]),
        _largest([m.gpu_reserved_bytes for m in memories]),
        _largest([m.gpu_used_bytes for m in memories]),
    )


def _largest(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _tree_rss_bytes() -> int | None:
    me = psutil.Process()
    marks = [_high_water_mark(process.pid) for process in (me, *me.children(recursive=True))]
    known = [mark for mark in marks if mark is not None]
    return sum(known) if known else _own_peak()


def _high_water_mark(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None  # it ended since it was listed, or this is not Linux
    marks = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(marks[0][1]) * _KIB if marks else None


def _own_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB  # bytes on macOS, KiB elsewhere


def _torch_peaks() -> tuple[int | None, int | None]:
    # Importing torch to find out that it was not used would cost the light processes a second.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None, None
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())


def _peak_used(telemetry: Telemetry | None) -> int | None:
    return _largest([s.memory_used_bytes for s in telemetry.samples]) if telemetry else None
