"""NVML where there is no GPU: the functions that the harness asks, over cards that a test describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass
class Card:
    """A card or a MIG instance. ``processes`` maps pid to bytes; null is what the driver does not tell."""

    uuid: str
    used: int = 0
    processes: Mapping[int, int | None] = field(default_factory=dict)
    instances: Sequence[Card] = ()


class Nvml:
    """At pynvml's interface; what is not here is not offered by the driver."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *cards: Card) -> None:
        self.cards = cards

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml") or name == "nvmlMemory_v2":
            raise AttributeError(name)
        return self._refuse

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        known = [*self.cards, *(instance for card in self.cards for instance in card.instances)]
        return next((card for card in known if card.uuid == uuid), None) or self._refuse()

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7 if card.instances else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        return card.instances[index] if index < len(card.instances) else self._refuse()

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetMemoryInfo(self, card: Card, version: object = None) -> Any:
        return self._refuse() if version is not None else SimpleNamespace(used=card.used, total=80 << 30)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in card.processes.items()]

    def _refuse(self, *_: object) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
