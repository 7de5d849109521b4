"""One process of a service: takes items from its address, works on them, passes them on.

Started by ``process.py``. When its control connection closes, however its other end came to die, it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from harness.protocols import Allocate, BuildProgress, Engine, Frontend
from harness.protocols.children import peak_rss_bytes, teller, when_closed
from harness.spans import SpanRecorder, Unrecorded, now_ns
from variants.ipc.types import Lease, PayloadTooLargeError, PeerGoneError, Sender, Transport, total
from variants.topology.item import Item, hop_spans
from variants.topology.roles import FrontendRole, InferenceRole, Role, telling

_LOOK_UP_S = 0.1
_GRACE_S = 2.0
_NO_SPANS = Unrecorded()  # for work that records none


@dataclass(frozen=True)
class WorkerPlan:
    """What one process is for. ``source`` and ``destinations`` are addresses of links; where there are
    several, an item goes to that of its ``route``."""

    name: str
    transport: Transport
    source: str
    destinations: tuple[str, ...]
    make_frontend: Callable[[], Frontend] | None = None
    stages: tuple[str, ...] | None = None
    """The front end's stages that this process runs; None for all of them."""
    make_engine: Callable[[], Engine] | None = None
    gc: Mapping[str, Any] = field(default_factory=dict)
    make_recorder: Callable[[], SpanRecorder] = SpanRecorder
    device: int | None = None
    """Which of the visible CUDA devices it sees; None for all."""


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
        self._senders = [plan.transport.sender(address) for address in plan.destinations]
        self._sender = self._senders[0]  # of the item at hand
        self._role = _make_role(plan, self._allocate, progress)
        # Bound last: who connects finds a process that is ready.
        self._receiver = plan.transport.receiver(plan.source)
        for sender in self._senders:
            self._receiver.watch(sender)
        self._undelivered = 0

    def run(self, stopping: threading.Event) -> None:
        role = self._role
        while not stopping.is_set():
            lease = self._receiver.receive(self._patience_s()) if role.wants_work else None
            if lease is not None:
                self._take(lease)
            elif role.due_in_s is not None:
                self._receiver.leave()
                role.step()
        for sender in self._senders:
            sender.close()
        self._receiver.close()

    def _patience_s(self) -> float:
        due_in_s = self._role.due_in_s
        return _LOOK_UP_S if due_in_s is None else min(due_in_s, _LOOK_UP_S)

    def _allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self._sender.allocate(shape, dtype)

    def _take(self, lease: Lease) -> None:
        item: Item = lease.value
        self._sender = self._to(item)
        try:
            if item.kind == "evidence":
                self._send(item._replace(value=[*item.value, self._evidence()]), lease)
            elif item.kind in ("batch", "push"):
                # Live audio: thousands of items a second, and nobody asks where their time went.
                self._role.take(item, _NO_SPANS, partial(self._send, lease=lease))
            else:
                recorder = self._plan.make_recorder()
                recorder.extend(hop_spans(lease.times, now_ns()))
                item = item._replace(started_ns=item.started_ns or lease.times.received_ns)
                self._role.take(item, recorder, partial(self._send_timed, lease, recorder))
        except BaseException:
            lease.release()
            raise

    def _send_timed(self, lease: Lease, recorder: SpanRecorder, item: Item) -> None:
        self._send(item._replace(spans=(*item.spans, *recorder.spans)), lease)

    def _send(self, item: Item, lease: Lease) -> None:
        sender = self._to(item)
        try:
            sender.send(item, lease)
        except PeerGoneError:
            self._undelivered += 1  # the service has answered for it, or will
        except PayloadTooLargeError as error:  # the answer fits
            sender.send(item._replace(value=None, error=str(error)))

    def _to(self, item: Item) -> Sender:
        return self._senders[item.route % len(self._senders)]

    def _evidence(self) -> dict[str, Any]:
        return {
            "name": self._plan.name,
            "pid": os.getpid(),
            "received": self._receiver.traffic,
            "sent": total([sender.traffic for sender in self._senders]),
            "device": self._plan.device,
            "undelivered": self._undelivered,
            "max_rss_bytes": peak_rss_bytes(),
            "heavy_modules": sorted({"torch", "nemo"} & sys.modules.keys()),
            **self._role.evidence(),
        }


def _make_role(plan: WorkerPlan, allocate: Allocate, progress: BuildProgress) -> Role:
    if plan.make_engine is not None:
        return InferenceRole(telling(plan.make_engine, progress)(), plan.gc)
    if plan.make_frontend is None:
        raise ValueError(f"the plan of {plan.name} names neither a front end nor an engine")
    return FrontendRole(plan.make_frontend(), plan.stages, allocate)
