"""The two loops that drive a service with whole recordings.

*Closed*: each client sends a request when its last is answered; with one client that measures service time
and says nothing about queueing. *Open*: requests arrive on an absolute schedule, and latency counts from
the scheduled arrival, so that a stall is charged to every request it delayed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.protocols import Reply, Request, Service
from harness.spans import now_ns


@dataclass(frozen=True, slots=True)
class Completed:
    """One answered request. Times are nanoseconds of the monotonic clock.

    ``scheduled_ns`` is when it should have arrived, ``dispatched_ns`` when the load generator let
    it go; their difference is the generator's own lag.
    """

    index: int
    scheduled_ns: int
    dispatched_ns: int
    reply: Reply


OnCompleted = Callable[[Completed], None]
Fetch = Callable[[int], Request]


def closed_loop(
    service: Service, fetch: Fetch, indices: range, on_completed: OnCompleted, clients: int = 1
) -> None:
    """Each of ``clients`` sends a request when its last is answered; returns when all are.

    ``fetch`` reads the payload before a request's clock starts. One client is the calling thread; several
    have threads of their own, in which ``fetch`` and ``on_completed`` are called.
    """
    left = iter(indices)  # of a range: its next() is one step for the interpreter, in any thread

    def serve(ended: threading.Event) -> None:
        while not ended.is_set() and (index := next(left, None)) is not None:
            request = fetch(index)
            sent_ns = now_ns()
            reply = service.handle(request)
            on_completed(Completed(index, sent_ns, sent_ns, reply))

    if clients == 1:
        serve(threading.Event())
    else:
        _Clients(clients, serve).join()


def open_loop(
    service: Service, fetch: Fetch, offsets_s: Sequence[float], clients: int, on_completed: OnCompleted
) -> None:
    """Let requests go at their scheduled times; ``clients`` threads wait for the replies.

    Payloads are read before the first arrival. The calling thread does nothing but keep the
    schedule. An error in a client thread ends the run and is raised here.
    """
    prepared = [fetch(index) for index in range(len(offsets_s))]
    waiting: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()

    def serve(ended: threading.Event) -> None:
        while not ended.is_set() and (job := waiting.get()) is not None:
            index, scheduled_ns, dispatched_ns = job
            on_completed(Completed(index, scheduled_ns, dispatched_ns, service.handle(prepared[index])))

    threads = _Clients(clients, serve)
    start_ns = now_ns() + 10_000_000  # the first arrival must not be late by the set-up above
    for index, offset_s in enumerate(offsets_s):
        scheduled_ns = start_ns + int(offset_s * 1e9)
        _sleep_until(scheduled_ns)
        if threads.ended.is_set():
            break
        waiting.put((index, scheduled_ns, now_ns()))
    for _ in range(clients):
        waiting.put(None)
    threads.join()


class _Clients:
    """Threads that each run ``serve`` until there is nothing left or ``ended`` is set: by the first that
    fails, or because the thread that waits for them was interrupted."""

    def __init__(self, count: int, serve: Callable[[threading.Event], None]) -> None:
        self.ended = threading.Event()
        self._serve = serve
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, name=f"client-{n}", daemon=True) for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for all. Raises the error of the first that failed."""
        try:
            for thread in self._threads:
                thread.join()
        finally:
            self.ended.set()
        if self._failures:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            self._serve(self.ended)
        except BaseException as error:  # handed to the thread that can raise it
            self._failures.append(error)
            self.ended.set()


def _sleep_until(deadline_ns: int) -> None:
    while (left_ns := deadline_ns - now_ns()) > 0:
        time.sleep(left_ns * 1e-9)
