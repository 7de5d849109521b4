"""The host: cores and who governs their speed, what a container leaves of them, and who else wants them.

Read from ``/proc`` and ``/sys`` (proc(5), Documentation/admin-guide/pm/cpufreq.rst, cgroup-v2.rst); what a
kernel does not say is left out.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.doctor.findings import Complaint, Fact, Finding
from harness.host import cpu_model
from harness.run.provenance import usable_cores

_FILES_OF_MANY_STREAMS = 4096
_WAITING_SHARE = 0.05
_GIB = 2**30


@dataclass(frozen=True)
class Host:
    """A machine by its files, which lie under ``root``; ``cores`` are those that this process may run on."""

    root: Path = Path("/")
    cores: int = field(default_factory=usable_cores)

    def findings(self) -> Iterator[Finding]:
        yield from self._cores()
        yield from self._frequency()
        yield from self._quota()
        yield from self._neighbours()
        yield from self._memory()
        yield from self._files()

    def _cores(self) -> Iterator[Finding]:
        online = self._read("sys/devices/system/cpu/online") or "unknown"
        yield Fact("cpu", cpu_model())
        yield Fact("cores", f"{self.cores} usable; online: {online}")
        if self._read("sys/devices/system/cpu/smt/active") == "1":
            yield Complaint(
                "two threads share each physical core, so that one slows the other down",
                "echo off > /sys/devices/system/cpu/smt/control, or use every second core (taskset)",
            )
        if self.cores < 2:
            yield Complaint(
                "one core has to serve and to keep the schedule of arrivals",
                "use two cores or more; an open loop's lag says whether one was enough",
            )
        if " hypervisor " in f" {self._flags()} ":
            yield Complaint(
                "this is a virtual machine: its cores may be others' as well",
                "use dedicated cores; every run says what was stolen from it",
            )

    def _frequency(self) -> Iterator[Finding]:
        paths = sorted((self.root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor"))
        governors = sorted({path.read_text().strip() for path in paths})
        yield Fact("governor", ", ".join(governors) or "the kernel does not say")
        if set(governors) - {"performance"}:
            yield Complaint(
                f"the governor {', '.join(governors)} lowers an idle core's clock: rare requests look slow",
                "cpupower frequency-set -g performance",
            )
        turbo_off = self._read("sys/devices/system/cpu/intel_pstate/no_turbo")
        boost = self._read("sys/devices/system/cpu/cpufreq/boost")
        if turbo_off == "0" or boost == "1":
            yield Complaint(
                "turbo clocks depend on heat and on neighbouring cores",
                "turn them off (intel_pstate/no_turbo, cpufreq/boost), or keep runs long and interleaved",
            )

    def _quota(self) -> Iterator[Finding]:
        quota_cores = self._quota_cores()
        yield Fact("cgroup quota", "none" if quota_cores is None else f"{quota_cores:g} cores")
        if quota_cores is not None and quota_cores < self.cores:
            yield Complaint(
                f"the container may use the time of {quota_cores:g} of {self.cores} cores; when it has, it "
                "stands still until the period ends: stalls of tens of milliseconds",
                "raise the quota to whole cores, or pin the container to as many (cpuset) instead",
            )

    def _quota_cores(self) -> float | None:
        """The narrowest of the cgroups above this process, in either version; None without any."""
        found = [*self._quotas_v2(), *self._quotas_v1()]
        return min(found, default=None)

    def _quotas_v2(self) -> Iterator[float]:
        group = next((line[3:] for line in self._lines("proc/self/cgroup") if line.startswith("0::")), "/")
        path = Path("sys/fs/cgroup") / group.lstrip("/")
        while path.name != "fs":
            quota, _, period = (self._read(f"{path}/cpu.max") or "max 1").partition(" ")
            if quota.isdecimal():
                yield int(quota) / int(period)
            path = path.parent

    def _quotas_v1(self) -> Iterator[float]:
        for folder in ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"):
            quota = self._read(f"{folder}/cpu.cfs_quota_us")
            period = self._read(f"{folder}/cpu.cfs_period_us")
            if quota and period and int(quota) > 0:
                yield int(quota) / int(period)

    def _neighbours(self) -> Iterator[Finding]:
        load = float((self._read("proc/loadavg") or "0").split()[0])
        yield Fact("load", f"{load:g} runnable on average in the last minute")
        pressure = self._pressure()
        if pressure is not None:
            yield Fact("cpu pressure", f"something waited for a core {pressure:.0%} of the last 10 s")
        if load > self.cores or (pressure or 0.0) > _WAITING_SHARE:
            yield Complaint(
                f"other programs want the cores (load {load:g} on {self.cores})",
                "end them; every run says how long it waited for a core",
            )
        if not (self.root / "proc/self/schedstat").exists():
            yield Complaint(
                "the kernel does not count how long threads wait for a core",
                "boot with schedstats=enable; without it a disturbed run cannot say so",
            )

    def _pressure(self) -> float | None:
        """Share of the last ten seconds in which a thread waited for a core (PSI); None without."""
        some = next((line for line in self._lines("proc/pressure/cpu") if line.startswith("some")), "")
        values = dict(part.split("=") for part in some.split()[1:])
        return float(values["avg10"]) / 100 if "avg10" in values else None

    def _memory(self) -> Iterator[Finding]:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in self._lines("proc/meminfo")}
        if "MemTotal" in sizes:
            free = sizes.get("MemAvailable", 0) / _GIB
            yield Fact("memory", f"{free:.1f} of {sizes['MemTotal'] / _GIB:.1f} GiB available")
        if sizes.get("SwapTotal", 0) - sizes.get("SwapFree", 0) > _GIB:
            yield Complaint(
                "more than a GiB has been swapped out: touching it again stalls a request",
                "free memory, then swapoff -a && swapon -a",
            )

    def _files(self) -> Iterator[Finding]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield Fact("open files", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")
        if hard != resource.RLIM_INFINITY and hard < _FILES_OF_MANY_STREAMS:
            yield Complaint(
                f"at most {hard} files may be open: that many live streams are not reached",
                "ulimit -Hn 65536, or LimitNOFILE= of the service",
            )

    def _flags(self) -> str:
        return next((line for line in self._lines("proc/cpuinfo") if line.startswith("flags")), "")

    def _lines(self, path: str) -> list[str]:
        return (self._read(path) or "").splitlines()

    def _read(self, path: str) -> str | None:
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None
