"""A receiver's attention to its links: since when it has done nothing else, and its waits for a core."""

from __future__ import annotations

from typing import NamedTuple

from harness.spans import CoreWait, now_ns


class Found(NamedTuple):
    """When a receiver turned to its links and when it noticed something there; how much of the last wait
    it could have run but had no core."""

    ready_ns: int
    found_ns: int
    core_wait_ns: int


class Attention:
    """For one thread at a time, the one that receives."""

    def __init__(self) -> None:
        self._core_wait: CoreWait | None = None
        self._ready_ns = 0
        self._waited_before_ns = 0

    def turn(self) -> None:
        """The receiver turns to its links, or turns again: looking up in vain is no work."""
        if self._core_wait is None:  # here, because another thread may have bound the address
            self._core_wait = CoreWait()
        self._ready_ns = self._ready_ns or now_ns()
        self._waited_before_ns = self._core_wait.read_ns()

    def find(self) -> Found:
        """It has noticed something."""
        waited_ns = 0 if self._core_wait is None else self._core_wait.read_ns() - self._waited_before_ns
        return Found(self._ready_ns, now_ns(), waited_ns)

    def leave(self) -> None:
        """It goes to work; until it turns again it is busy."""
        self._ready_ns = 0

    def close(self) -> None:
        if self._core_wait is not None:
            self._core_wait.close()
