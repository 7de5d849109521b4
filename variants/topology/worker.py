"""One process of a service: takes items from its address, works on them, passes them on.

Started by ``process.py``. When its control connection closes, however its other end came to die, it ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from harness.protocols import Allocate, BuildProgress, Engine, Frontend
from harness.protocols.children import teller, when_closed
from harness.spans import SpanRecorder, now_ns
from variants.ipc.types import Lease, PayloadTooLargeError, PeerGoneError, Transport
from variants.topology.item import Item, hop_spans, since_ns
from variants.topology.work import FrontendWork, InferenceWork, Work, telling

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


def main(plan: WorkerPlan, control: Connection) -> None:
    """Entry point of the process; returns when the service has closed."""
    stopping = threading.Event()
    when_closed(control, stopping.set, _GRACE_S)
    worker = Worker(plan, teller(control))
    with contextlib.suppress(OSError):  # the service has closed meanwhile
        control.send(Ready(os.getpid()))
    worker.run(stopping)


class Worker:
    def __init__(self, plan: WorkerPlan, progress: BuildProgress) -> None:
        self._plan = plan
        self._sender = plan.transport.sender(plan.destination)
        self._work = _make_work(plan, self._sender.allocate, progress)
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
            self._sender.send(item, lease, since_ns(item))
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
        item = item._replace(started_ns=item.started_ns or lease.received_ns)
        recorder.extend(hop_spans(lease, now_ns()))
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


def _make_work(plan: WorkerPlan, allocate: Allocate, progress: BuildProgress) -> Work:
    if plan.make_engine is not None:
        return InferenceWork(telling(plan.make_engine, progress)(), plan.gc)
    if plan.make_frontend is None:
        raise ValueError(f"the plan of {plan.name} names neither a front end nor an engine")
    return FrontendWork(plan.make_frontend(), plan.stages, allocate)
