"""The server under test in a process of its own, as clients in theirs meet it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any

from harness import registry
from harness.errors import HarnessError
from harness.protocols import Evidence, ServiceSpec
from harness.sockets import Address


@dataclass(frozen=True)
class ServerPlan:
    """What to serve and how: one choice of each axis of the serving path. Picklable."""

    spec: ServiceSpec
    topology: str = "inprocess"
    io: str = "epoll"
    io_options: Mapping[str, Any] = field(default_factory=dict)
    gc: str = "default"
    gc_options: Mapping[str, Any] = field(default_factory=dict)
    warm_up_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectorPause:
    """One garbage collection in the serving process; nanoseconds of the monotonic clock."""

    generation: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class ServerEvidence:
    """What the process said about itself when it ended."""

    evidence: Evidence
    pauses: tuple[CollectorPause, ...]


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
        self._process = context.Process(target=serve, args=(self._plan, theirs), name="server")
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


def serve(plan: ServerPlan, control: Connection) -> None:
    """The server's process: build, say where, serve until SIGTERM, say what happened."""
    try:
        _serve(plan, control)
    except HarnessError as error:
        control.send(error)
    finally:
        control.close()


def _serve(plan: ServerPlan, control: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    policy = registry.load("gc", plan.gc)(plan.gc_options)
    backend = registry.load("topology", plan.topology)(plan.spec)
    backend.start()
    try:
        backend.warm_up(plan.warm_up_s)
        server = registry.load("io", plan.io)(policy.watch(backend), plan.io_options)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: server.stop())
        address = server.bind()
        policy.after_startup()
        control.send(address)
        server.serve()
        evidence = dict(backend.evidence())
        if "gc" in evidence:  # of the inference process, where that is another
            evidence["inference_gc"] = evidence.pop("gc")
        evidence |= {**server.evidence(), **policy.evidence(), "process": _process()}
        pauses = tuple(CollectorPause(p.generation, p.start_ns, p.end_ns) for p in policy.pauses())
        control.send(ServerEvidence(evidence, pauses))
    finally:
        # A large heap is torn down object by object; nothing is gained by collecting on the way.
        gc.disable()
        backend.close()


def _process() -> dict[str, float | int]:
    """What the serving process used: CPU seconds and its peak memory (Linux counts in KiB)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss << 10}
