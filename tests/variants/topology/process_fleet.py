"""Workers for shards that are processes of this machine: what a payload says, its worker does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from harness.errors import HarnessError
from harness.protocols import Reply, Request, Transcript
from harness.protocols.children import Child
from harness.spans import now_ns
from variants.topology.shards import Answer, WorkerDiedError

KILLS = b"kills"
FAILS = b"fails"
KILLS_ONCE = b"kills once, and leaves a mark in "


def main(refuses: bool, control: Connection) -> int:
    """A worker: answers each list of requests until nobody asks."""
    if refuses:
        return 3
    control.send("ready")
    while True:
        try:
            requests: list[Request] = control.recv()
        except EOFError:
            return 0
        began_ns = now_ns()
        try:
            answer: Answer | str = Answer([_do(each) for each in requests], began_ns, now_ns(), "here")
        except ValueError as error:
            answer = str(error)
        control.send(answer)


def _do(request: Request) -> Reply:
    if request.payload == FAILS:
        raise ValueError(f"{request.request_id} is too much")
    mark = request.payload.removeprefix(KILLS_ONCE) if request.payload.startswith(KILLS_ONCE) else b""
    if request.payload == KILLS or (mark and not Path(os.fsdecode(mark)).exists()):
        Path(os.fsdecode(mark or b"/dev/null")).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    started_ns = now_ns()
    transcript = Transcript(request.payload.decode().upper())
    return Reply(request.request_id, transcript, (), started_ns, now_ns())


class ProcessFleet:
    """See ``variants.topology.shards.Fleet``. ``handed`` are the shards that each worker was given."""

    def __init__(self, places: int, refuses_to_come_back: bool = False) -> None:
        self._refuses = refuses_to_come_back
        self._pool = ThreadPoolExecutor(4 * places)  # the kernel ends a child with the thread that started it
        self._locks = [threading.Lock() for _ in range(places)]
        self._children = [self._started(refuses=False) for _ in range(places)]
        self.handed: list[tuple[int, list[str]]] = []

    def run(self, place: int, requests: Sequence[Request]) -> Future[Answer]:
        self.handed.append((place, [request.request_id for request in requests]))
        return self._pool.submit(self._ask, self._children[place], self._locks[place], list(requests))

    def replace(self, place: int) -> Future[None]:
        return self._pool.submit(self._replace, place)

    def close(self) -> None:
        self._pool.shutdown()
        for child in self._children:
            child.end(1.0)

    def __enter__(self) -> ProcessFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _started(refuses: bool) -> Child:
        child = Child("tests.variants.topology.process_fleet:main", refuses, "worker")
        child.hear()
        return child

    @staticmethod
    def _ask(child: Child, lock: threading.Lock, requests: list[Request]) -> Answer:
        with lock:
            child.send(requests)
            try:
                said = child.hear()
            except HarnessError as error:
                raise WorkerDiedError(str(error)) from error
        if not isinstance(said, Answer):
            raise ValueError(said)  # noqa: TRY004
        return said

    def _replace(self, place: int) -> None:
        self._children[place].end(1.0)
        self._children[place] = self._started(self._refuses)
