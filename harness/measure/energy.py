"""What the devices of a run drew while it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.nvml import FIRST, Device, reading, used_devices


class EnergyMeter:
    """Counts from its creation, by the devices' own counters (``nvmlDeviceGetTotalEnergyConsumption``)."""

    def __init__(self, nvml: Any | None, chosen: Sequence[int] = FIRST) -> None:
        self._nvml = nvml
        self._devices: Sequence[Device] = [] if nvml is None else used_devices(nvml, chosen=chosen)
        self._before_j = self._counted_j()

    def read_j(self) -> float | None:
        """Joules since; None where there is no device, or one without a counter."""
        now_j = self._counted_j()
        return None if now_j is None or self._before_j is None else now_j - self._before_j

    def _counted_j(self) -> float | None:
        nvml = self._nvml
        if nvml is None or not self._devices:
            return None
        counted_mj = [
            reading(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, device.handle) for device in self._devices
        ]
        known = [float(value) for value in counted_mj if value is not None]
        return sum(known) * 1e-3 if len(known) == len(counted_mj) else None
