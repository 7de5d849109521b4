"""What the scheduler gave the measured processes: cores they used, waited for, and lost.

On a busy machine the same work takes longer, and the samples alone do not say why. Linux counts, for
every thread, how long it was ready to run but no core was free (``/proc/PID/task/TID/schedstat``,
Documentation/scheduler/sched-stats.rst), and for the machine, how long its hypervisor ran others
(``steal`` of ``/proc/stat``, proc(5)). Reading both before and after costs the measurement nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.record import CpuTime

WAITED_SHARE = 0.05
"""Of the time that threads wanted a core: above it other programs are in the figures."""
STOLEN_SHARE = 0.02
_STEAL_FIELD = 7
_SWITCHES = "nonvoluntary_ctxt_switches:"


class CpuMeter:
    """Counts from its creation."""

    def __init__(self) -> None:
        self._used_s = _read_used_s()
        self._tasks = _read_tasks()
        self._stat = _read_stat()

    def read(self) -> CpuTime | None:
        """What the process tree got since; ``None`` where the kernel does not count it. Of a thread that
        ended in between it is known what it used, not what it waited for; of a process, neither."""
        after = _read_tasks()
        if not after:
            return None
        spent = [task.since(self._tasks.get(key, _Task())) for key, task in after.items()]
        return CpuTime(
            used_s=sum(used_s - self._used_s.get(pid, 0.0) for pid, used_s in _read_used_s().items()),
            waited_s=sum(task.waited_ns for task in spent) * 1e-9,
            involuntary_switches=sum(task.switches for task in spent),
            stolen_share=_stolen_share(self._stat, _read_stat()),
        )


def disturbances(cpu_times: Sequence[CpuTime | None]) -> Iterator[str]:
    """What else ran while the processes of a run were measured, each with its remedy."""
    known = [cpu for cpu in cpu_times if cpu is not None]
    waited_s = sum(cpu.waited_s for cpu in known)
    wanted_s = waited_s + sum(cpu.used_s for cpu in known)
    if wanted_s > 0 and waited_s / wanted_s > WAITED_SHARE:
        yield (
            f"the measured processes waited for a core during {waited_s / wanted_s:.0%} of their computing "
            "time, because other programs ran: close them, or free a core"
        )
    stolen = max((cpu.stolen_share for cpu in known), default=0.0)
    if stolen > STOLEN_SHARE:
        yield (
            f"the hypervisor gave up to {stolen:.0%} of the cores' time to other machines: measure on a "
            "machine of its own, or raise the number of processes"
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """The counters of a thread since it began."""

    waited_ns: int = 0
    switches: int = 0

    def since(self, before: _Task) -> _Task:
        return _Task(
            self.waited_ns - before.waited_ns,
            self.switches - before.switches,
        )


def _read_used_s() -> dict[int, float]:
    """Of each process, its threads that have ended included."""
    found = {}
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = float(times.user + times.system)
    return found


def _tree() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _read_tasks() -> dict[tuple[int, str], _Task]:
    """Every thread of this process and its descendants, by process and thread."""
    found = {}
    for process in _tree():
        for folder in Path(f"/proc/{process.pid}/task").glob("*"):
            with contextlib.suppress(OSError):  # it ended since it was listed
                found[process.pid, folder.name] = _read_task(folder)
    return found


def _read_task(folder: Path) -> _Task:
    _, waited_ns, _ = map(int, (folder / "schedstat").read_text().split())
    lines = (folder / "status").read_text().splitlines()
    switches = next(int(line.split()[1]) for line in lines if line.startswith(_SWITCHES))
    return _Task(waited_ns, switches)


def _read_stat() -> list[int]:
    """Ticks of all cores since boot: user, nice, system, idle, iowait, irq, softirq, steal."""
    try:
        return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return []


def _stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    ticks = [late - early for early, late in zip(before, after, strict=True)]
    return ticks[_STEAL_FIELD] / sum(ticks) if sum(ticks) > 0 else 0.0
