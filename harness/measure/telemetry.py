"""Readings of the GPU through NVML while a run is measured: clocks, power, heat, throttling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.nvml import FIRST, Device, open_nvml, reading, used_devices
from harness.record import GpuSample, Telemetry
from harness.spans import now_ns

INTERVAL_S = 0.5

# Bits of nvmlClocksEventReasons (NVML API reference). Idle and application clocks are no throttling
# but explain a low clock, so they are kept by name like the rest.
_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
THROTTLING = frozenset(_REASONS.values()) - {
    "gpu_idle",
    "applications_clocks_setting",
    "sync_boost",
    "display_clock_setting",
}


def reason_names(bits: int) -> tuple[str, ...]:
    """The names of a throttle-reason bit mask; unknown bits in hexadecimal."""
    known = [name for bit, name in _REASONS.items() if bits & bit]
    rest = bits & ~sum(_REASONS)
    return (*known, hex(rest)) if rest else tuple(known)


class GpuSampler:
    """Reads the devices every ``interval_s`` in a thread of its own; see ``sample_gpu``."""

    def __init__(self, epoch_ns: int, interval_s: float, chosen: Sequence[int]) -> None:
        self._epoch_ns = epoch_ns
        self._interval_s = interval_s
        self._chosen = chosen
        self._readings: dict[Device, list[GpuSample]] = {}
        self._names: dict[Device, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-telemetry", daemon=True)
        self.failure: str | None = None
        """What ended the readings early."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> tuple[Telemetry, ...]:
        """The readings so far of each device; empty on a machine without NVML or a GPU."""
        return tuple(
            Telemetry(self._names[device], self._interval_s, tuple(readings), device.uuid)
            for device, readings in self._readings.items()
        )

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # said with the run, which is worth keeping without it
            self.failure = f"{type(error).__name__}: {error}"

    def _loop(self) -> None:
        with open_nvml() as nvml:
            devices = [] if nvml is None else used_devices(nvml, chosen=self._chosen)
            self._names = {device: str(nvml.nvmlDeviceGetName(device.handle)) for device in devices}
            self._readings = {device: [self._read(nvml, device)] for device in devices}
            while devices and not self._stop.wait(self._interval_s):
                for device in devices:
                    self._readings[device].append(self._read(nvml, device))

    def _read(self, nvml: Any, device: Device) -> GpuSample:
        return read_gpu(nvml, device.handle, (now_ns() - self._epoch_ns) * 1e-9)


@contextmanager
def sample_gpu(
    epoch_ns: int, interval_s: float = INTERVAL_S, chosen: Sequence[int] = FIRST
) -> Iterator[GpuSampler]:
    """Read the devices that this run computes on while the block runs; ``result()`` has the readings
    afterwards. Times are seconds since ``epoch_ns`` on the monotonic clock."""
    sampler = GpuSampler(epoch_ns, interval_s, chosen)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def read_gpu(nvml: Any, handle: Any, time_s: float) -> GpuSample:
    """One reading; each figure that the device does not offer is null."""

    def ask(question: Callable[..., Any], *arguments: Any) -> Any:
        return reading(nvml, question, handle, *arguments)

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    bits = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    return GpuSample(
        time_s=time_s,
        sm_clock_hz=_scaled(ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM), 1e6),
        memory_clock_hz=_scaled(ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM), 1e6),
        power_w=_scaled(ask(nvml.nvmlDeviceGetPowerUsage), 1e-3),
        power_limit_w=_scaled(ask(nvml.nvmlDeviceGetEnforcedPowerLimit), 1e-3),
        temperature_c=_scaled(ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU), 1.0),
        memory_used_bytes=None if memory is None else int(memory.used),
        throttle_reasons=None if bits is None else reason_names(int(bits)),
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(value) * factor
