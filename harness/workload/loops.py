"""The three loops that drive a service with whole recordings.

*Closed*: each client sends a request when its last is answered; with one client that measures service time
and says nothing about queueing. *Open*: requests arrive on an absolute schedule, and latency counts from
the scheduled arrival, so that a stall is charged to every request it delayed. *Offline*: everything has
arrived at the start, and what counts is when the last is answered.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

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


T = TypeVar("T")
OnCompleted = Callable[[Completed], None]
Fetch = Callable[[int], Request]


def closed_loop(
    service: Service, fetch: Fetch, shares: Iterable[range], on_completed: OnCompleted, clients: int = 1
) -> None:
    """Each of ``clients`` sends a request when its last is answered. All of a share are answered before the
    next one is asked for.

    ``fetch`` reads the payload before a request's clock starts. One client is the calling thread; several
    have threads of their own, in which ``fetch`` and ``on_completed`` are called.
    """

    def serve(index: int) -> None:
        request = fetch(index)
        sent_ns = now_ns()
        reply = service.handle(request)
        on_completed(Completed(index, sent_ns, sent_ns, reply))

    if clients == 1:
        for index in chain.from_iterable(shares):
            serve(index)
        return
    with _Clients(clients, serve) as threads:
        for share in shares:
            for index in share:
                threads.submit(index)
            threads.wait()


def open_loop(
    service: Service, fetch: Fetch, offsets_s: Sequence[float], clients: int, on_completed: OnCompleted
) -> None:
    """Let requests go at their scheduled times; ``clients`` threads wait for the replies.

    Payloads are read before the first arrival. The calling thread does nothing but keep the
    schedule. An error in a client thread ends the run and is raised here.
    """
    prepared = [fetch(index) for index in range(len(offsets_s))]

    def serve(job: tuple[int, int, int]) -> None:
        index, scheduled_ns, dispatched_ns = job
        on_completed(Completed(index, scheduled_ns, dispatched_ns, service.handle(prepared[index])))

    with _Clients(clients, serve) as threads:
        start_ns = now_ns() + 10_000_000  # the first arrival must not be late by the set-up above
        for index, offset_s in enumerate(offsets_s):
            scheduled_ns = start_ns + int(offset_s * 1e9)
            _sleep_until(scheduled_ns)
            if threads.failure is not None:
                break
            threads.submit((index, scheduled_ns, now_ns()))
        threads.wait()


def offline_loop(
    service: Service, fetch: Fetch, indices: Iterable[int], in_flight: int, on_completed: OnCompleted
) -> None:
    """Have all of ``indices`` answered, in their order, ``in_flight`` at once.

    ``dispatched_ns`` is before the first byte of a payload is read: reading is part of the work.
    """
    start_ns = now_ns()

    def serve(index: int) -> None:
        taken_ns = now_ns()
        on_completed(Completed(index, start_ns, taken_ns, service.handle(fetch(index))))

    with _Clients(in_flight, serve) as threads:
        for index in indices:
            threads.submit(index)
        threads.wait()


class _Clients(Generic[T]):
    """Threads that each serve a job when they have done with their last. After a failure none is served."""

    def __init__(self, count: int, serve: Callable[[T], None]) -> None:
        self.failure: BaseException | None = None
        self._serve = serve
        self._jobs: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._pending = 0
        self._answered = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"client-{n}", daemon=True) for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: T) -> None:
        with self._answered:
            self._pending += 1
        self._jobs.put(job)

    def wait(self) -> None:
        """Until all are answered. Raises the first failure at once."""
        with self._answered:
            self._answered.wait_for(lambda: self._pending == 0 or self.failure is not None)
        if self.failure is not None:
            raise self.failure

    def __enter__(self) -> _Clients[T]:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.failure = self.failure or error
        for _ in self._threads:
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self.failure is None:
                    self._serve(job)
            except BaseException as error:  # handed to the thread that can raise it
                self.failure = self.failure or error
            with self._answered:
                self._pending -= 1
                self._answered.notify()


def _sleep_until(deadline_ns: int) -> None:
    while (left_ns := deadline_ns - now_ns()) > 0:
        time.sleep(left_ns * 1e-9)
