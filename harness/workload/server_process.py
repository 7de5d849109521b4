"""The server under test in a process of its own, as clients in theirs meet it."""

from __future__ import annotations

import os
import signal

from harness.errors import HarnessError
from harness.protocols import BuildProgress, silent
from harness.protocols.children import Child
from harness.protocols.server import ServerEvidence, ServerPlan
from harness.protocols.sockets import Address

_GRACE_S = 6.0


class ServerProcess:
    """Starts the server, knows where it listens, ends it with SIGTERM and collects its evidence.

    ``silence_s``: how long the server may come no further while it starts.
    """

    def __init__(self, plan: ServerPlan, silence_s: float = 60.0) -> None:
        self._plan = plan
        self._silence_s = silence_s
        self._child: Child | None = None
        self.address = Address()

    def start(self, progress: BuildProgress = silent) -> None:
        """Return when it listens. Raises the error with which its start-up ended."""
        self._child = Child("variants.registry:serve", self._plan, "server")
        try:
            self.address = self._child.answer(progress, self._silence_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._child is not None:
            self._child.end(_GRACE_S)

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def wait(self) -> None:
        """Until the calling thread is interrupted. Raises what ended the server, should it end first."""
        self._running.hear()

    def stop(self, timeout_s: float = 30.0) -> ServerEvidence:
        """SIGTERM, wait for the drain, and what the process then said. Raises ``HarnessError``."""
        os.kill(self.pid, signal.SIGTERM)
        ended: ServerEvidence = self._running.answer(silence_s=timeout_s)
        self._running.end(timeout_s)
        return ended

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise HarnessError("the server was not started")
        return self._child
