"""The GPUs through NVML, which needs no CUDA context: what they are, what sets their clocks, who is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.doctor.findings import Complaint, Fact, Finding
from harness.nvml import Device, read_use, reading, used_devices

_GIB = 2**30
_MIB = 2**20
_UNSEEN_BYTES = 256 * _MIB
"""More than a driver needs on a device where nobody computes."""
_COMPUTE_MODES: Mapping[int, str] = {
    0: "default",
    1: "exclusive thread",
    2: "prohibited",
    3: "exclusive process",
}


def findings(nvml: Any) -> Iterator[Finding]:
    """Of the devices that a run would use; ``nvml`` is None where there is no driver."""
    devices = [] if nvml is None else used_devices(nvml)
    if not devices:
        yield Fact("gpu", "none" if nvml is None else "a driver, and no device that a run would see")
        return
    if driver := reading(nvml, nvml.nvmlSystemGetDriverVersion):
        yield Fact("driver", str(driver))
    for device in devices:
        yield from _device(nvml, device)


def _device(nvml: Any, device: Device) -> Iterator[Finding]:
    handle = device.handle
    yield Fact("gpu", f"{reading(nvml, nvml.nvmlDeviceGetName, handle) or 'unnamed'} ({device.uuid})")
    yield from _clocks(nvml, handle)
    yield from _sharing(nvml, device)
    if reading(nvml, nvml.nvmlDeviceGetPersistenceMode, handle) == 0:
        yield Complaint(
            "persistence mode is off: the driver is loaded again for the first program after a pause",
            "nvidia-smi -pm 1",
        )


def _clocks(nvml: Any, handle: Any) -> Iterator[Finding]:
    now = reading(nvml, nvml.nvmlDeviceGetClockInfo, handle, 1)  # NVML_CLOCK_SM
    most = reading(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, 1)
    limit = reading(nvml, nvml.nvmlDeviceGetPowerManagementLimit, handle)
    usual = reading(nvml, nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)
    if now is not None and most is not None:
        yield Fact("clocks", f"SM {now} of at most {most} MHz")
        yield Complaint(
            "a GPU chooses its clock by load and heat, unless it is locked",
            f"nvidia-smi -lgc {most // 2},{most // 2} steadies it, and slows it; runs record their clocks",
        )
    if limit is not None:
        yield Fact("power limit", f"{limit / 1000:.0f} W")
    if limit is not None and usual is not None and limit < usual:
        yield Complaint(
            f"power is limited to {limit / 1000:.0f} W, below the card's {usual / 1000:.0f} W",
            "nvidia-smi -pl with the card's own limit, or compare with cards that are limited alike",
        )


def _sharing(nvml: Any, device: Device) -> Iterator[Finding]:
    handle = device.handle
    is_instance = device.uuid.startswith("MIG-")
    yield Fact("mig", "an instance of a divided card" if is_instance else "the whole card")
    if is_instance:
        yield Complaint(
            "other instances share the card's power and memory bandwidth",
            "use the whole card, or leave the others idle",
        )
    mode = reading(nvml, nvml.nvmlDeviceGetComputeMode, handle)
    if mode is not None:
        yield Fact("compute mode", _COMPUTE_MODES.get(mode, str(mode)))
    use = read_use(nvml, device)
    if use.used_bytes is not None:
        yield Fact("gpu memory", f"{use.used_bytes / _GIB:.1f} GiB in use")
    if use.processes or (use.used_bytes or 0) > _UNSEEN_BYTES:
        who = (
            ", ".join(f"process {pid}" for pid in use.processes) or "processes that cannot be seen from here"
        )
        yield Complaint(f"strangers are on the GPU: {who}", "end them, or choose another card")
