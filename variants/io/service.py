"""What every server has, however it waits for its clients: a door, counts, and the signal to stop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from harness.protocols import Evidence
from harness.protocols.sockets import Address
from variants.io.conversation import Conversation, Shared
from variants.io.door import Door
from variants.io.types import IoOptions, Switches, Traffic, Visits, evidence_of
from variants.topology.types import Backend


class Service:
    """The part of ``variants.io.types.Server`` that is the same for all."""

    def __init__(self, backend: Backend, options: IoOptions) -> None:
        self._options = options
        self._shared = Shared.of(backend, options)
        self._door = Door(options)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._traffic = Traffic()
        """Of connections that are gone, and of what belongs to none."""
        self._accepted = 0
        self._peak = 0
        self._started_switches = Switches.now()

    @property
    def address(self) -> Address:
        return self._door.address

    def bind(self) -> Address:
        return self._door.bind()

    def stop(self) -> None:
        os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        os.close(self._stop_fd)

    def _evidence(
        self, kind: str, threads: int, per_thread: int, living: Iterable[Conversation], **own: Any
    ) -> Evidence:
        """Counts of all connections, the ``living`` among them; ``own`` is what only this kind can say."""
        traffic = Traffic()
        traffic.merge(self._traffic)
        for conversation in living:
            traffic.merge(conversation.traffic)
        visits = Visits(self._accepted, self._peak, threads, per_thread)
        return evidence_of(kind, visits, self._started_switches, traffic, self._shared.budget, **own)
