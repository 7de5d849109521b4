"""The driver's management library, which answers without a CUDA context: which devices a run computes on.

``python -m harness.nvml`` prints what this machine gives: its devices, which of them a run sees, who
computes on them, and what the two ways to measure a process's memory find.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.arguments import positive_integer
from harness.command import command
from harness.errors import ExitCode

T = TypeVar("T")

FIRST = (0,)
"""An engine computes on the first device that it sees."""


@contextmanager
def open_nvml() -> Iterator[Any]:
    """The NVML bindings, initialized, or None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def reading(nvml: Any, question: Callable[..., T], *arguments: Any) -> T | None:
    """A reading, or None where this device or driver does not offer it: N/A stays null."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


# ---------------------------------------------------------------- which devices


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance of one, and NVML's handle of it while NVML is open."""

    uuid: str
    handle: Any = field(compare=False)  # a ctypes pointer, which has no hash


def used_devices(
    nvml: Any, environment: Mapping[str, str] = os.environ, chosen: Sequence[int] = FIRST
) -> list[Device]:
    """The devices that a run with this environment computes on: of those visible, the ``chosen``."""
    visible = visible_devices(nvml, environment.get("CUDA_VISIBLE_DEVICES"))
    return [visible[place] for place in chosen if place < len(visible)]


def visible_devices(nvml: Any, visible: str | None) -> list[Device]:
    """The devices that CUDA enumerates for ``CUDA_VISIBLE_DEVICES=visible``, in its order; None is unset.

    As the CUDA programming guide defines it: indices, UUIDs (or their unambiguous beginnings) and
    names of MIG instances, separated by commas; the first that names no device hides those after it.
    Indices count as NVML does, which is CUDA's order where the cards are alike or
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
    """
    cards = _cards(nvml)
    if visible is None:
        return [_as_enumerated(nvml, card) for card in cards]
    found: list[Device] = []
    for name in visible.split(","):
        device = _named(nvml, name.strip(), cards)
        if device is None or device.uuid in [other.uuid for other in found]:
            return found
        found.append(device)
    return found


def _cards(nvml: Any) -> list[Device]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [Device(_text(nvml.nvmlDeviceGetUUID(handle)), handle) for handle in handles]


def _named(nvml: Any, name: str, cards: Sequence[Device]) -> Device | None:
    if name.isdecimal():
        return _as_enumerated(nvml, cards[int(name)]) if int(name) < len(cards) else None
    if name.startswith("MIG-"):
        handle = reading(nvml, nvml.nvmlDeviceGetHandleByUUID, name)
        return None if handle is None else Device(_text(nvml.nvmlDeviceGetUUID(handle)), handle)
    matching = [card for card in cards if name.startswith("GPU-") and card.uuid.startswith(name)]
    return _as_enumerated(nvml, matching[0]) if len(matching) == 1 else None


def _as_enumerated(nvml: Any, card: Device) -> Device:
    """CUDA shows of a card that is divided its first instance alone."""
    for index in range(reading(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, card.handle) or 0):
        handle = reading(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, index)
        if handle is not None:
            return Device(_text(nvml.nvmlDeviceGetUUID(handle)), handle)
    return card


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# ---------------------------------------------------------------- who holds how much of them


@dataclass(frozen=True)
class Use:
    """What a device's memory held at one moment. ``processes`` maps pid to bytes, null where the driver
    does not tell; pids are those of the driver's namespace, which a container's own may not be."""

    used_bytes: int | None
    processes: Mapping[int, int | None]


def read_memory(nvml: Any, device: Device) -> Any | None:
    """``total`` and ``used`` bytes; what the driver keeps for itself is in neither where it says so."""
    version = getattr(nvml, "nvmlMemory_v2", None)
    split = reading(nvml, nvml.nvmlDeviceGetMemoryInfo, device.handle, version)
    return split or reading(nvml, nvml.nvmlDeviceGetMemoryInfo, device.handle)


def read_use(nvml: Any, device: Device) -> Use:
    memory = read_memory(nvml, device)
    running = reading(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, device.handle) or []
    return Use(
        None if memory is None else int(memory.used),
        {int(process.pid): process.usedGpuMemory for process in running},
    )


def total_use(nvml: Any, devices: Sequence[Device]) -> Use:
    """The same over several devices."""
    uses = [read_use(nvml, device) for device in devices]
    processes: dict[int, int | None] = {}
    for use in uses:
        for pid, held in use.processes.items():
            known = processes.get(pid, 0)
            processes[pid] = None if held is None or known is None else known + held
    amounts = [use.used_bytes for use in uses if use.used_bytes is not None]
    return Use(sum(amounts) if amounts else None, processes)


# ---------------------------------------------------------------- what this machine gives


def _describe(nvml: Any) -> Iterator[str]:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = visible_devices(nvml, setting)
    shown = {device.uuid: device for device in (*_cards(nvml), *visible)}
    yield f"driver {_text(nvml.nvmlSystemGetDriverVersion())}; this process is {os.getpid()}"
    yield "CUDA_VISIBLE_DEVICES is not set" if setting is None else f"CUDA_VISIBLE_DEVICES={setting}"
    for device in shown.values():
        place = next((n for n, seen in enumerate(visible) if seen.uuid == device.uuid), None)
        role = "hidden" if place is None else "used" if place in FIRST else "visible"
        use = read_use(nvml, device)
        yield f"{role:8} {_text(nvml.nvmlDeviceGetName(device.handle))} {device.uuid}"
        yield f"         {use.used_bytes} bytes used; bytes by process: {dict(use.processes)}"


def _try_both_ways(nvml: Any, mib: int) -> Iterator[str]:
    """What each way to measure finds of ``mib`` that this process takes, beside its CUDA context."""
    import torch

    from harness.measure.memory import GpuMeter

    if not torch.cuda.is_available():
        yield "PyTorch sees no GPU: nothing was taken"
        return
    meter = GpuMeter(nvml)
    meter.resume()
    block = torch.zeros(mib << 20, dtype=torch.uint8, device="cuda")
    meter.pause()
    yield f"took {block.nbytes} bytes: {meter.held([os.getpid()])}; by difference {meter.held([])}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.nvml", description=__doc__)
    parser.add_argument(
        "--take", type=positive_integer, metavar="MIB", help="take so much of the first device and measure it"
    )
    options = parser.parse_args(arguments)
    with open_nvml() as nvml:
        if nvml is None:
            print("no driver: NVML cannot be initialized", file=sys.stderr)
            return int(ExitCode.UNAVAILABLE)
        lines = _try_both_ways(nvml, options.take) if options.take else ()
        for line in (*_describe(nvml), *lines):
            print(line)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(command(main))
