"""One process of a service: takes items from its address, works on them, passes them on.

Started by ``process.py`` with the file descriptor of a control connection, over which it is told its
plan and says that it is ready. When the control connection closes, however its other end came to
die, the process ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.protocols import Allocate, Engine, Frontend
from harness.spans import SpanRecorder, now_ns
from variants.ipc.types import Lease, PayloadTooLargeError, PeerGoneError, Transport
from variants.topology.item import Item, hop_spans
from variants.topology.work import FrontendWork, InferenceWork, Work

_LOOK_UP_S = 0.1
_GRACE_S = 2.0
_NO_SPANS = SpanRecorder()  # for work that records none


@dataclass(frozen=True)
class WorkerPlan:
    """What one process is for. ``source`` and ``destination`` are addresses of links."""

    name: str
    transport: Transport
    source: str
    destination: str
    make_frontend: Callable[[], Frontend] | None = None
    stages: tuple[str, ...] | None = None
    """The front end's stages that this process runs; None for all of them."""
    make_engine: Callable[[], Engine] | None = None
    gc: Mapping[str, Any] = field(default_factory=dict)
    make_recorder: Callable[[], SpanRecorder] = SpanRecorder


@dataclass(frozen=True)
class Ready:
    pid: int


@dataclass(frozen=True)
class Failed:
    """Start-up ended with ``error`` where that is one of ours, else with what ``trace`` says."""

    error: HarnessError | None
    trace: str


def main(control_fd: int) -> None:
    """Entry point of the process; returns when the service has closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the service's to act on
    control = Connection(control_fd)
    stopping = threading.Event()
    try:
        plan: WorkerPlan = control.recv()
        _watch_control(control, stopping, Path(plan.source).parent)
        worker = Worker(plan)
    except BaseException as error:
        ours = error if isinstance(error, HarnessError) else None
        with contextlib.suppress(OSError):
            control.send(Failed(ours, traceback.format_exc()))
        sys.exit(1)
    with contextlib.suppress(OSError):  # the service has closed meanwhile
        control.send(Ready(os.getpid()))
    worker.run(stopping)
    _clear(Path(plan.source).parent)


def _clear(folder: Path) -> None:
    """Remove the links' addresses: a service that was killed cannot do it."""
    shutil.rmtree(folder, ignore_errors=True)


def _watch_control(control: Connection, stopping: threading.Event, folder: Path) -> None:
    """End with the service: orderly if the loop gets to see it, by force if not."""

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            control.recv()
        stopping.set()
        threading.Event().wait(_GRACE_S)
        _clear(folder)
        os._exit(1)

    threading.Thread(target=wait, name="control", daemon=True).start()


class Worker:
    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._sender = plan.transport.sender(plan.destination)
        self._work = _make_work(plan, self._sender.allocate)
        # Bound last: who connects finds a process that is ready.
        self._receiver = plan.transport.receiver(plan.source)
        self._receiver.watch(self._sender)
        self._undelivered = 0

    def run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            lease = self._receiver.receive(_LOOK_UP_S)
            if lease is not None:
                self._pass_on(lease)
        self._sender.close()
        self._receiver.close()

    def _pass_on(self, lease: Lease) -> None:
        try:
            item = self._process(lease.value, lease)
        except BaseException:
            lease.release()
            raise
        try:
            self._sender.send(item, lease)
        except PeerGoneError:
            self._undelivered += 1  # the service has answered for it, or will
        except PayloadTooLargeError as error:  # the answer fits
            self._sender.send(item._replace(value=None, error=str(error)))

    def _process(self, item: Item, lease: Lease) -> Item:
        if item.kind == "evidence":
            return item._replace(value=[*item.value, self._evidence()])
        # Live audio: thousands of items a second, and nobody asks where their time went.
        if item.kind == "batch":
            return item._replace(value=[self._work(each, _NO_SPANS) for each in item.value])
        if item.kind == "push":
            return self._work(item, _NO_SPANS)
        recorder = self._plan.make_recorder()
        item = item._replace(started_ns=item.started_ns or lease.times.received_ns)
        recorder.extend(hop_spans(lease.times, now_ns()))
        item = self._work(item, recorder)
        return item._replace(spans=(*item.spans, *recorder.spans))

    def _evidence(self) -> dict[str, Any]:
        return {
            "name": self._plan.name,
            "pid": os.getpid(),
            "received": self._receiver.traffic,
            "sent": self._sender.traffic,
            "undelivered": self._undelivered,
            "max_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "heavy_modules": sorted({"torch", "nemo"} & sys.modules.keys()),
            **self._work.evidence(),
        }


def _make_work(plan: WorkerPlan, allocate: Allocate) -> Work:
    if plan.make_engine is not None:
        return InferenceWork(plan.make_engine(), plan.gc)
    if plan.make_frontend is None:
        raise ValueError(f"the plan of {plan.name} names neither a front end nor an engine")
    return FrontendWork(plan.make_frontend(), plan.stages, allocate)
