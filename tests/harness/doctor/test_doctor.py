"""The doctor over machines whose files, cards and packages a test states, and over this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

import pytest

from harness.doctor import gpu
from harness.doctor.findings import Complaint, Fact
from harness.doctor.host import Host
from harness.doctor.variants import runnable
from tests.harness.machines import Laptop
from tests.harness.nvml_standin import Card, Nvml

V1 = "sys__fs__cgroup__cpu__cpu"
QUIET = {
    "proc/loadavg": "0.10 0.10 0.10 1/100 42",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1",
    "proc/self/schedstat": "1 1 1",
    "proc/self/cgroup": "0::/jobs/mine",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 500 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB",
    "proc/cpuinfo": "flags : fpu sse avx512f",
    "sys/devices/system/cpu/online": "0-7",
    "sys/devices/system/cpu/smt/active": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
}


def host(root: Path, cores: int = 8, **files: str) -> Host:
    tree: Mapping[str, str] = QUIET | {path.replace("__", "/"): text for path, text in files.items()}
    for path, text in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return Host(root, cores)


def complaints(found: object) -> list[str]:
    return [each.what for each in found if isinstance(each, Complaint)]  # type: ignore[attr-defined]


def facts(found: object) -> dict[str, str]:
    return {each.name: each.value for each in found if isinstance(each, Fact)}  # type: ignore[attr-defined]


def test_a_quiet_machine_has_nothing_to_complain_of(tmp_path: Path) -> None:
    found = list(host(tmp_path).findings())
    assert complaints(found) == []
    assert facts(found)["governor"] == "performance"
    assert facts(found)["cgroup quota"] == "none"


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"sys__devices__system__cpu__smt__active": "1"}, "two threads share each physical core"),
        (
            {"sys__devices__system__cpu__cpu1__cpufreq__scaling_governor": "powersave"},
            "the governor performance, powersave",
        ),
        ({"sys__devices__system__cpu__intel_pstate__no_turbo": "0"}, "turbo clocks"),
        ({"sys__devices__system__cpu__cpufreq__boost": "1"}, "turbo clocks"),
        ({"sys__fs__cgroup__jobs__mine__cpu.max": "150000 100000"}, "time of 1.5 of 8 cores"),
        ({"sys__fs__cgroup__jobs__cpu.max": "50000 100000"}, "time of 0.5 of 8 cores"),
        (
            {f"{V1}.cfs_quota_us": "200000", f"{V1}.cfs_period_us": "100000"},
            "time of 2 of 8 cores",
        ),
        ({"proc__loadavg": "9.5 0 0 1/1 1"}, "other programs want the cores"),
        ({"proc__pressure__cpu": "some avg10=31.00 avg60=0 total=1"}, "other programs want the cores"),
        ({"proc__cpuinfo": "flags : fpu hypervisor sse"}, "virtual machine"),
        (
            {"proc__meminfo": "MemTotal: 9000000 kB\nSwapTotal: 4000000 kB\nSwapFree: 1000000 kB"},
            "swapped out",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_disturbs_is_said_with_its_remedy(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    found = list(host(tmp_path, **files).findings())
    (only,) = [each for each in found if isinstance(each, Complaint)]
    assert complaint in only.what
    assert only.remedy


def test_a_quota_of_all_cores_is_none_to_complain_of(tmp_path: Path) -> None:
    found = list(host(tmp_path, **{"sys__fs__cgroup__jobs__mine__cpu.max": "800000 100000"}).findings())
    assert (complaints(found), facts(found)["cgroup quota"]) == ([], "8 cores")


def test_a_kernel_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    found = list(Host(tmp_path, 4).findings())
    assert complaints(found) == ["the kernel does not count how long threads wait for a core"]


# ---------------------------------------------------------------- the GPU


class Tuned(Nvml):
    """An H100 whose driver tells of clocks and power."""

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: ARG002
        return "H100"

    def nvmlDeviceGetClockInfo(self, card: Card, kind: int) -> int:  # noqa: ARG002
        return 345

    def nvmlDeviceGetMaxClockInfo(self, card: Card, kind: int) -> int:  # noqa: ARG002
        return 1980

    def nvmlDeviceGetPowerManagementLimit(self, card: Card) -> int:  # noqa: ARG002
        return 400_000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, card: Card) -> int:  # noqa: ARG002
        return 700_000

    def nvmlDeviceGetPersistenceMode(self, card: Card) -> int:  # noqa: ARG002
        return 0


def test_no_gpu_is_a_fact() -> None:
    assert facts(gpu.findings(None)) == {"gpu": "none"}


def test_a_card_s_clocks_limits_and_strangers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = list(gpu.findings(Tuned(Card("GPU-1", used=3 << 30, processes={77: 1 << 30}))))
    assert facts(found)["driver"] == "580.1"
    assert facts(found)["clocks"] == "SM 345 of at most 1980 MHz"
    assert facts(found)["mig"] == "the whole card"
    said = " | ".join(complaints(found))
    for what in ("chooses its clock", "limited to 400 W", "persistence mode is off", "process 77"):
        assert what in said


def test_an_instance_of_a_divided_card_is_said_and_unseen_strangers_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    card = Card("GPU-1", instances=[Card("MIG-1", used=1 << 30)])
    found = list(gpu.findings(Nvml(card)))
    assert facts(found)["mig"] == "an instance of a divided card"
    assert any("cannot be seen from here" in each for each in complaints(found))


# ---------------------------------------------------------------- variants, and all of it


def test_what_a_variant_lacks_is_named() -> None:
    found = {each.variant: each.lack for each in takewhile(lambda v: v.variant < "copy", runnable(Laptop()))}
    assert found["collapsed"] is None
    assert "encoder=compiled: no NVIDIA GPU" in (found["compiled"] or "")
    assert "variant=" not in (found["compiled"] or "")


def test_this_machine_is_examined() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.doctor"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "== host ==",
        "governor",
        "same work",
        "\ncollapsed          can run",
        "makes timing unsteady",
    ):
        assert part in done.stdout
