"""The server under test in a process of its own, as clients in theirs meet it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any

from harness.errors import HarnessError
from harness.protocols.server import ServerEvidence, ServerPlan
from harness.protocols.sockets import Address
from variants import registry


class ServerProcess:
    """Starts the server, knows where it listens, ends it with SIGTERM and collects its evidence."""

    def __init__(self, plan: ServerPlan, start_timeout_s: float = 60.0) -> None:
        self._plan = plan
        self._start_timeout_s = start_timeout_s
        self._process: SpawnProcess | None = None
        self._control: Connection | None = None
        self.address = Address()

    def __enter__(self) -> ServerProcess:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=registry.serve, args=(self._plan, theirs), name="server")
        self._process.start()
        theirs.close()
        self.address = self._receive(self._start_timeout_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    @property
    def pid(self) -> int:
        if self._process is None or self._process.pid is None:
            raise RuntimeError("the server was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def stop(self, timeout_s: float = 30.0) -> ServerEvidence:
        """SIGTERM, wait for the drain, and what the process then said. Raises ``HarnessError``."""
        os.kill(self.pid, signal.SIGTERM)
        ended: ServerEvidence = self._receive(timeout_s)
        if self._process is not None:
            self._process.join(timeout_s)
        return ended

    def _receive(self, timeout_s: float) -> Any:
        if self._control is None or self._process is None:
            raise RuntimeError("the server was not started")
        deadline = time.monotonic() + timeout_s
        try:
            while not self._control.poll(0.1):
                if time.monotonic() > deadline:
                    raise HarnessError(f"the server said nothing for {timeout_s:.0f} s and was stopped")
            said = self._control.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(1.0)
            message = f"the server ended unexpectedly with exit code {self._process.exitcode}"
            raise HarnessError(message) from None
        if isinstance(said, BaseException):
            raise said
        return said
