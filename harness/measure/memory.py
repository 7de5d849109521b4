"""Memory of the processes that serve: their peaks of RAM, and what they hold of the run's devices."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from harness.nvml import FIRST, Use, total_use, used_devices
from harness.protocols.children import peak_rss_bytes
from harness.record import Memory, Telemetry

_KIB = 1024
_UNSEEN_BYTES = 256 << 20
"""More than a driver needs on a device where nobody computes."""


@dataclass(frozen=True)
class Held:
    """What processes hold of the devices, how that was found, and how many others were seen there
    (None where that cannot be known)."""

    nbytes: int
    method: str
    strangers: int | None


class GpuMeter:
    """What the processes of one service hold of the devices it computes on.

    The driver's list of processes says it, except in containers, which may see no process or those
    of another namespace. Then it is what the devices' use grew by between ``resume`` and ``pause``:
    the time in which nobody else of this series works. Without NVML nothing is known.
    """

    def __init__(self, nvml: Any, alone: bool = True, chosen: Sequence[int] = FIRST) -> None:
        """``chosen`` are the service's devices, of those visible; ``alone`` says that no other process of a
        series keeps memory meanwhile."""
        self._nvml = nvml
        self._devices = [] if nvml is None else used_devices(nvml, chosen=chosen)
        self._alone = alone
        self._grown_bytes = 0
        self._before: Use | None = None
        self._first: Use | None = None

    def resume(self) -> None:
        """This process works from here on."""
        self._before = self._use()
        self._first = self._first or self._before

    def pause(self) -> None:
        """It stops, perhaps for another's turn."""
        self._grown_bytes += self._growth(self._use())
        self._before = None

    def held(self, pids: Iterable[int]) -> Held | None:
        """What the processes ``pids`` hold now; None where there is no device."""
        now, first = self._use(), self._first
        if now is None or first is None:
            return None
        ours = [now.processes[pid] for pid in pids if pid in now.processes]
        known = [nbytes for nbytes in ours if nbytes is not None]
        if known and len(known) == len(ours):
            return Held(sum(known), "processes", len(set(now.processes) - _series()))
        if now.used_bytes is None:
            return None
        return Held(max(0, self._grown_bytes + self._growth(now)), "difference", self._strangers(first))

    def _growth(self, now: Use | None) -> int:
        before = self._before
        if now is None or before is None or now.used_bytes is None or before.used_bytes is None:
            return 0
        return now.used_bytes - before.used_bytes

    def _strangers(self, first: Use) -> int | None:
        """Who was there before this series came; one at least where memory is held by nobody."""
        if not self._alone:
            return None
        return len(first.processes) or int((first.used_bytes or 0) > _UNSEEN_BYTES)

    def _use(self) -> Use | None:
        return total_use(self._nvml, self._devices) if self._devices else None


def peak_memory(
    pid: int | None = None, telemetry: Sequence[Telemetry] = (), meter: GpuMeter | None = None
) -> Memory:
    """Memory of the service whose first process is ``pid`` (this one, if none), with its descendants.

    Reading once, while it still serves, costs the measurement nothing, unlike sampling. ``rss_bytes``
    adds up each process's own high-water mark (``VmHWM``): an upper bound of the tree's peak, in
    which shared pages count once per process. Children that have ended are not in it. Serving
    libraries keep what they took of a device, so that their last reading there is their largest.
    """
    root = os.getpid() if pid is None else pid
    pids = _tree(root)
    allocated, reserved = _torch_peaks() if root == os.getpid() else (None, None)
    held = None if meter is None else meter.held(pids)
    return Memory(
        rss_bytes=_rss_bytes(pids),
        gpu_bytes=None if held is None else held.nbytes,
        gpu_method=None if held is None else held.method,
        strangers=None if held is None else held.strangers,
        gpu_allocated_bytes=allocated,
        gpu_reserved_bytes=reserved,
        gpu_used_bytes=_peak_used(telemetry),
    )


def combine(memories: Sequence[Memory]) -> Memory | None:
    """The largest of each figure over a run's processes, which do not live at the same time."""
    if not memories:
        return None
    return Memory(
        rss_bytes=_largest(m.rss_bytes for m in memories),
        gpu_bytes=_largest(m.gpu_bytes for m in memories),
        gpu_method=", ".join(sorted({m.gpu_method for m in memories if m.gpu_method})) or None,
        strangers=_largest(m.strangers for m in memories),
        gpu_allocated_bytes=_largest(m.gpu_allocated_bytes for m in memories),
        gpu_reserved_bytes=_largest(m.gpu_reserved_bytes for m in memories),
        gpu_used_bytes=_largest(m.gpu_used_bytes for m in memories),
    )


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _tree(root: int) -> list[int]:
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [root]


def _series() -> set[int]:
    """Everything that the launcher of this process has started, and with it all that takes turns."""
    return set(_tree(os.getppid()))


def _rss_bytes(pids: Sequence[int]) -> int | None:
    known = [mark for mark in map(peak_rss_bytes, pids) if mark is not None]
    if not known and pids[0] == os.getpid():
        return _own_peak()
    return sum(known) if known else None


def _own_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB  # bytes on macOS, KiB elsewhere


def _torch_peaks() -> tuple[int | None, int | None]:
    # Importing torch to find out that it was not used would cost the light processes a second.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None, None
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())


def _peak_used(telemetry: Sequence[Telemetry]) -> int | None:
    peaks = [_largest(sample.memory_used_bytes for sample in device.samples) for device in telemetry]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if known else None
