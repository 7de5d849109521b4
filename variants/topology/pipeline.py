"""A service of several processes, as its client sees it.

The client's process keeps the book of pending jobs: each is answered exactly once, by the last
process of the chain or, when a process dies, by this one, at once and with an error. A thread per
entry sends (a link may have no room), one thread receives, one supervises.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError, UsageError
from harness.protocols import BuildProgress, Evidence, Reply, Request, Transcript, silent
from harness.protocols.folders import SOCKETS, OwnFolder
from harness.protocols.options import Count, Positive, PositiveSeconds
from harness.spans import Span, now_ns
from variants.ipc.types import Lease, PeerGoneError, Receiver, Sender, Traffic, Transport, total
from variants.serving.streams import describe
from variants.topology.item import Item, hop_spans
from variants.topology.supervisor import RestartPolicy, Supervisor
from variants.topology.types import (
    KINDS,
    Busy,
    CommitStream,
    Completion,
    Done,
    Job,
    Kind,
    PushAudio,
    Transcribe,
)
from variants.topology.warmup import tone_wav
from variants.topology.worker import WorkerPlan

_LOOK_UP_S = 0.1
_BUSY_WAIT_S = 0.001
_LONGEST_BATCH = 64
_EVIDENCE_TIMEOUT_S = 5.0
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes

_ELSEWHERE = frozenset(("engine", "gc", "sent", "received"))  # under keys of their own

Finish = Callable[[Item], None]
"""Called once with the item that answers a job; its ``error`` is set where the job failed."""


@dataclass(frozen=True)
class Layout:
    """Which processes there are and how they hang together.

    A job enters by one of ``entries`` and is inferred in one of ``inference``, each on a device of its
    own; every other process is shared: its death ends all that is pending. ``plans`` are built by a
    function of the folder in which links have their addresses; those of ``inference`` send to ``main``.
    """

    name: str
    plans: Callable[[Path], Sequence[WorkerPlan]]
    entries: tuple[str, ...]
    hops: int
    inference: tuple[str, ...] = ("inference",)


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """What every topology of several processes takes."""

    max_pending: Positive = 8192
    """Jobs that a connection server may have waiting before it has to slow its clients down."""
    max_pending_mb: Positive = 2048
    """And their bytes."""
    max_restarts: Count = 5
    """Deaths of one process within the window after which the service is given up."""
    restart_window_s: PositiveSeconds = 60.0

    @property
    def max_pending_bytes(self) -> int:
        return self.max_pending_mb << 20

    @property
    def restart(self) -> RestartPolicy:
        return RestartPolicy(max_restarts=self.max_restarts, window_s=self.restart_window_s)


@dataclass(slots=True)
class _Entry:
    """A process that takes jobs from outside, and what waits to be sent to it."""

    name: str
    waiting: deque[Item] = field(default_factory=deque)
    wakeup: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    pending: int = 0


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a job enters, and which inference process it is for; a stream keeps to its way."""

    entry: _Entry
    route: int


@dataclass(slots=True)
class _Pending:
    kind: Kind
    finish: Finish
    way: _Way
    submitted_ns: int
    nbytes: int


class Pipeline:
    """See ``variants.topology.types.Backend``."""

    def __init__(self, layout: Layout, transport: Transport, options: PipelineOptions) -> None:
        self._layout = layout
        self._transport = transport
        self._options = options
        self._folder: OwnFolder | None = None
        self._supervisor: Supervisor | None = None
        self._entries = [_Entry(name) for name in layout.entries]
        self._pending: dict[int, _Pending] = {}
        self._pending_bytes = 0
        self._book = threading.Lock()
        self._in_flight = [0] * len(layout.inference)
        self._streams: dict[int, _Way] = {}
        self._job_ids = itertools.count(1)
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._finished = 0
        self._failed = 0
        self._failed_by_deaths = 0
        self._given_up: str | None = None
        self._receiver: Receiver | None = None
        self._senders: list[Sender] = []
        self._down: set[str] = set(layout.entries)
        self._lost_streams: list[tuple[int, int]] = []

    # ------------------------------------------------------------ life

    def start(self, progress: BuildProgress = silent) -> None:
        owned = self._folder = _private_folder()
        folder = owned.path
        try:
            receiver = self._receiver = self._transport.receiver(str(folder / "main"))
            self._senders = [self._transport.sender(str(folder / entry.name)) for entry in self._entries]
            plans = self._layout.plans(folder)
            self._supervisor = Supervisor(plans, self._options.restart, self._on_down, self._on_up, progress)
            self._supervisor.start()
        except BaseException:
            owned.close()
            raise
        for entry, sender in zip(self._entries, self._senders, strict=True):
            self._spawn(f"to-{entry.name}", partial(self._send_jobs, entry, sender))
        self._spawn("from-last", partial(self._receive_answers, receiver))

    def close(self) -> None:
        """End the processes; what is pending completes with an error. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.close()
        for entry in self._entries:
            entry.wakeup.release()
        for thread in self._threads:
            thread.join()
        self._fail(list(self._pending), "the service is closing")
        for end in (*self._senders, self._receiver):
            if end is not None:
                end.close()
        if self._folder is not None:
            self._folder.close()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """A tone of each length through every front end, then every shape through the engine."""
        lengths = list(lengths_s)
        for entry in self._entries:
            for length_s in lengths:
                _raise_error(self._ask("transcribe", _as_array(tone_wav(length_s)), _Way(entry, 0)))
        for route in range(len(self._in_flight)):
            _raise_error(self._ask("warm_up", lengths, _Way(self._entries[0], route)))

    # ------------------------------------------------------------ jobs

    def handle(self, request: Request) -> Reply:
        answer: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        while True:
            try:
                self.submit(Transcribe(request), answer.put)
                break
            except Busy:
                time.sleep(_BUSY_WAIT_S)
        reply = answer.get().reply
        if reply is None:
            raise RuntimeError("a recording was answered without a reply")
        return reply

    def submit(self, job: Job, done: Done) -> None:
        if self._closing or not self._threads:
            raise RuntimeError("submit() needs a started, open service")
        kind = KINDS[type(job)]
        submitted_ns = now_ns()
        finish = partial(_complete, job, done, submitted_ns, len(self._in_flight))
        stream_id = 0
        value: Any = None
        if isinstance(job, Transcribe):
            value = _as_array(job.request.payload)
        else:
            stream_id = job.stream_id
            if isinstance(job, PushAudio):
                value = job.samples
        way = self._route(kind, stream_id)
        if isinstance(way, str):
            finish(
                Item(kind, 0, stream_id, None, error=way, started_ns=submitted_ns, finished_ns=submitted_ns)
            )
            return
        self._enqueue(kind, stream_id, value, way, finish, submitted_ns)

    def _route(self, kind: Kind, stream_id: int) -> _Way | str:
        """The way that the job goes, or why it cannot be done."""
        if kind in ("transcribe", "open"):
            ways = self._open_ways()
            if not ways:
                return self._down_because()
            if kind == "transcribe":
                return min(ways, key=self._load_of)
            if stream_id in self._streams:
                return f"stream {stream_id} is open already"
            # An id that is used again goes the same way, behind what is still under way.
            return self._streams.setdefault(stream_id, ways[stream_id % len(ways)])
        stream_way = self._streams.get(stream_id)
        if stream_way is None and kind == "abandon":
            return _Way(self._entries[0], 0)
        if stream_way is None:
            return f"no open stream {stream_id}: it was never opened, or was lost with a process that died"
        if kind in ("commit", "abandon"):
            self._streams.pop(stream_id, None)
        return stream_way

    def _open_ways(self) -> list[_Way]:
        """Every pair of an entry and an inference process that a job can pass now."""
        ways = [_Way(entry, route) for entry in self._entries for route in range(len(self._in_flight))]
        return [way for way in ways if self._is_open(way)]

    def _load_of(self, way: _Way) -> tuple[int, int]:
        return self._in_flight[way.route], way.entry.pending

    def _enqueue(
        self, kind: Kind, stream_id: int, value: Any, way: _Way, finish: Finish, submitted_ns: int
    ) -> None:
        nbytes = getattr(value, "nbytes", 0)
        with self._book:  # a death takes it too: nothing is accepted behind its back
            is_open = self._is_open(way)
            if is_open and self._is_full(nbytes):
                self._unroute(kind, stream_id, way)
                raise Busy
            if is_open:
                self._accept(_Pending(kind, finish, way, submitted_ns, nbytes), stream_id, value)
        if not is_open:
            error = self._down_because()
            finish(Item(kind, 0, stream_id, None, error=error, started_ns=submitted_ns, finished_ns=now_ns()))

    def _is_full(self, nbytes: int) -> bool:
        limits = self._options
        too_large = self._pending_bytes + nbytes > limits.max_pending_bytes
        return len(self._pending) >= limits.max_pending or (too_large and bool(self._pending))

    def _accept(self, pending: _Pending, stream_id: int, value: Any) -> None:
        """Enter a job into the book (which the caller holds) and have it sent."""
        job_id = next(self._job_ids)
        self._pending[job_id] = pending
        self._pending_bytes += pending.nbytes
        way = pending.way
        way.entry.pending += 1
        self._in_flight[way.route] += 1
        way.entry.waiting.append(Item(pending.kind, job_id, stream_id, value, route=way.route))
        way.entry.wakeup.release()

    def _unroute(self, kind: Kind, stream_id: int, way: _Way) -> None:
        if kind == "open":
            self._streams.pop(stream_id, None)
        elif kind in ("commit", "abandon"):
            self._streams[stream_id] = way

    def _ask(self, kind: Kind, value: Any, way: _Way, timeout_s: float | None = None) -> Item:
        """A job of the service's own, on one way; its answer."""
        answer: queue.SimpleQueue[Item] = queue.SimpleQueue()
        if not self._is_open(way):
            return Item(kind, 0, 0, None, error=self._down_because())
        self._enqueue(kind, 0, value, way, answer.put, now_ns())
        try:
            return answer.get(timeout=timeout_s)
        except queue.Empty:
            return Item(kind, 0, 0, None, error=f"no answer in {timeout_s} s")

    # ------------------------------------------------------------ threads

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        def run() -> None:
            try:
                target()
            except Exception as error:
                self._give_up(f"its thread {name} failed: {describe(error)}")
                raise

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _give_up(self, why: str) -> None:
        """Nothing can be served any more: answer what is pending, refuse what comes."""
        with self._book:
            self._given_up = f"the service is down: {why}"
            self._down.add("this process")
            lost = list(self._pending)
        self._fail(lost, self._given_up)

    def _send_jobs(self, entry: _Entry, sender: Sender) -> None:
        while True:
            entry.wakeup.acquire()
            if self._closing:
                return
            items = [item for item in self._next_items(entry) if item.job_id in self._pending]
            if not items:  # they were answered when a process died
                continue
            try:
                if len(items) == 1:
                    sender.send(items[0])
                else:
                    sender.send(Item("batch", 0, 0, items, route=items[0].route))
            except PeerGoneError:
                self._fail_by_death([item.job_id for item in items], entry.name, "its link broke")
            except HarnessError as error:  # it does not fit the link
                self._fail([item.job_id for item in items], str(error))

    def _next_items(self, entry: _Entry) -> list[Item]:
        """The next item, or as many chunks of live audio as wait in a row."""
        waiting = entry.waiting
        item = waiting.popleft()
        if item.kind != "push":
            pending = self._pending.get(item.job_id)
            submitted_ns = now_ns() if pending is None else pending.submitted_ns
            return [item._replace(spans=(Span("queue", submitted_ns, now_ns()),))]
        items = [item]
        while len(items) < _LONGEST_BATCH and waiting and _goes_with(waiting[0], item):
            entry.wakeup.acquire()  # it was released once for each item, or is about to be
            items.append(waiting.popleft())
        return items

    def _receive_answers(self, receiver: Receiver) -> None:
        while not self._closing:
            lease = receiver.receive(_LOOK_UP_S)
            if lease is not None:
                self._finish(lease)

    def _finish(self, lease: Lease) -> None:
        item: Item = lease.value
        arrived_ns = now_ns()
        spans = hop_spans(lease.times, arrived_ns)
        lease.release()  # text, times and evidence are all that comes back
        if item.kind == "batch":
            for each in item.value:
                self._answer(each)
        elif item.kind == "push":
            self._answer(item)
        else:
            reply = Span("reply", arrived_ns, now_ns())
            self._answer(item._replace(spans=(*item.spans, *spans, reply)))

    def _answer(self, item: Item) -> None:
        pending = self._settle(item.job_id)
        if pending is None:  # it was answered when a process died
            return
        self._finished += 1
        self._failed += item.error is not None
        pending.finish(item)

    def _settle(self, job_id: int) -> _Pending | None:
        """Take a job out of the book; whoever gets it answers it."""
        with self._book:
            pending = self._pending.pop(job_id, None)
            if pending is not None:
                self._pending_bytes -= pending.nbytes
                pending.way.entry.pending -= 1
                self._in_flight[pending.way.route] -= 1
        return pending

    def _fail(self, job_ids: Iterable[int], why: str) -> int:
        """Answer those that nobody has answered yet; how many they were."""
        answered = 0
        for job_id in job_ids:
            pending = self._settle(job_id)
            if pending is not None:
                answered += 1
                at_ns = now_ns()
                pending.finish(
                    Item(pending.kind, job_id, 0, None, error=why, started_ns=at_ns, finished_ns=at_ns)
                )
        self._failed += answered
        return answered

    # ------------------------------------------------------------ deaths

    def _on_down(self, plan: WorkerPlan, how: str) -> None:
        """Answer for everything that may have been in the process, or has to pass it."""
        with self._book:
            self._down.add(plan.name)
            for stream_id, way in list(self._streams.items()):
                if self._passes(way, plan.name):
                    del self._streams[stream_id]
                    self._lost_streams.append((stream_id, way.route))
            lost = [job for job, pending in self._pending.items() if self._passes(pending.way, plan.name)]
            self._forget_lost_streams()
        self._fail_by_death(lost, plan.name, how)

    def _on_up(self, plan: WorkerPlan) -> None:
        with self._book:
            self._down.discard(plan.name)
            self._forget_lost_streams()

    def _forget_lost_streams(self) -> None:
        """Tell the engine, before anybody can open a stream of the same id (the caller holds the book)."""
        waiting, self._lost_streams = self._lost_streams, []
        for stream_id, route in waiting:
            ways = (_Way(entry, route) for entry in self._entries)
            way = next(filter(self._is_open, ways), None)
            if way is None:
                self._lost_streams.append((stream_id, route))
            else:
                self._accept(_Pending("abandon", _ignore, way, now_ns(), 0), stream_id, None)

    def _passes(self, way: _Way, name: str) -> bool:
        """Whether what goes this way passes the process of that name."""
        if name in self._layout.entries:
            return way.entry.name == name
        return name not in self._layout.inference or self._layout.inference[way.route] == name

    def _is_open(self, way: _Way) -> bool:
        return not any(self._passes(way, name) for name in self._down)

    def _fail_by_death(self, job_ids: Iterable[int], name: str, how: str) -> None:
        why = f"the {name} process died ({how}) while this was pending; send it again"
        self._failed_by_deaths += self._fail(job_ids, why)

    def _down_because(self) -> str:
        supervisor = self._supervisor
        if self._given_up is not None:
            return self._given_up
        if supervisor is None:
            return "the service has not been started"
        if supervisor.given_up:
            return f"the service is down: {supervisor.given_up}"
        return "a process of the service died and is starting again; send it again in a moment"

    # ------------------------------------------------------------ evidence

    def evidence(self) -> Evidence:
        workers = self._worker_evidence()
        deaths = {} if self._supervisor is None else self._supervisor.evidence()
        topology: dict[str, Any] = {
            "name": self._layout.name,
            "processes": 1 + len(self._pids()),
            "pids": [os.getpid(), *self._pids().values()],
            "hops_per_request": self._layout.hops,
            "jobs": self._finished,
            "failed_jobs": self._failed,
            "failed_by_deaths": self._failed_by_deaths,
            "supervisor": deaths,
            "workers": [{k: v for k, v in w.items() if k not in _ELSEWHERE} for w in workers],
        }
        if deaths.get("deaths"):
            names = ", ".join(f"{death['name']} ({death['how']})" for death in deaths["deaths"])
            topology["not_engaged"] = f"processes died during the run: {names}"
        last = next((worker for worker in workers if "engine" in worker), {})
        evidence = {
            "topology": topology,
            "ipc": self._ipc_evidence(workers),
            "engine": last.get("engine", {}),
        }
        return {**evidence, "gc": last["gc"]} if "gc" in last else evidence

    def _pids(self) -> dict[str, int]:
        return {} if self._supervisor is None else self._supervisor.pids()

    def _worker_evidence(self) -> list[dict[str, Any]]:
        """Each process once; those that are down or silent are missing."""
        found: dict[str, dict[str, Any]] = {}
        for way in self._open_ways() if self._threads and not self._closing else []:
            for worker in self._ask("evidence", [], way, _EVIDENCE_TIMEOUT_S).value or []:
                found[worker["name"]] = worker
        return list(found.values())

    def _ipc_evidence(self, workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        sent_by: dict[str, Traffic] = {"main": total(sender.traffic for sender in self._senders)}
        received_by = {} if self._receiver is None else {"main": self._receiver.traffic}
        for worker in workers:
            sent_by[worker["name"]], received_by[worker["name"]] = worker["sent"], worker["received"]
        sent = total(sent_by.values())
        copied = sent.copied_bytes + total(received_by.values()).copied_bytes
        evidence: dict[str, Any] = {
            "name": self._transport.name,
            "messages": sent.messages,
            "payload_bytes": sent.payload_bytes,
            "shared_bytes": sent.shared_bytes,
            "copied_bytes": dict(copied),
            "copied_bytes_total": copied.total(),
            "sent_by": {name: traffic.evidence() for name, traffic in sent_by.items()},
            "received_by": {name: traffic.evidence() for name, traffic in received_by.items()},
        }
        why = self._transport.not_engaged(sent) if self._finished else None
        return {**evidence, "not_engaged": why} if why else evidence


def _ignore(_item: Item) -> None:
    pass


def _goes_with(item: Item, first: Item) -> bool:
    """Whether a chunk of live audio can travel in one message with ``first``."""
    return item.kind == "push" and item.route == first.route


def _complete(job: Job, done: Done, submitted_ns: int, engines: int, item: Item) -> None:
    """From the item that came back to what the client was promised."""
    text = item.value if isinstance(item.value, str) else None
    reply = _reply(job, submitted_ns, engines, item) if isinstance(job, Transcribe | CommitStream) else None
    done(Completion(job, item.error, text, reply, item.started_ns, item.finished_ns))


def _reply(job: Transcribe | CommitStream, submitted_ns: int, engines: int, item: Item) -> Reply | None:
    """Each of several ``engines`` counts its own batches; to the client they are those of one service."""
    if isinstance(job, CommitStream) and item.error is not None:
        return None
    transcript = item.value if isinstance(item.value, Transcript) else None
    streamed = 0 if transcript is None else len(transcript.hypotheses)
    return Reply(
        request_id=job.request.request_id if isinstance(job, Transcribe) else str(job.stream_id),
        transcript=transcript,
        spans=item.spans,
        started_ns=submitted_ns,
        finished_ns=now_ns(),
        error=item.error,
        segments=item.segments if isinstance(job, Transcribe) else streamed,
        speech_s=item.speech_s,
        batch_id=item.batch_id and item.batch_id * engines + item.route,
        batch_size=item.batch_size,
    )


def _raise_error(item: Item) -> None:
    if item.error is not None:
        raise HarnessError(f"warm-up failed: {item.error}")


def _as_array(payload: bytes) -> np.ndarray:
    return np.frombuffer(payload, np.uint8) if payload else np.empty(0, np.uint8)


def _private_folder() -> OwnFolder:
    """A folder that only its owner may enter, for the addresses of links."""
    folder = OwnFolder(SOCKETS)
    if len(str(folder.path)) > _LONGEST_SOCKET_PATH - 16:
        folder.close()
        raise UsageError(
            f"TMPDIR={folder.path.parent} is too long for the path of a socket; set a shorter TMPDIR"
        )
    return folder
