"""The two loops that drive a service with whole recordings.

*Closed*: a request is sent when the one before is answered; it measures service time and says
nothing about queueing. *Open*: requests arrive on an absolute schedule, and latency counts from
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


def closed_loop(service: Service, fetch: Fetch, requests: int, on_completed: OnCompleted) -> None:
    """Send ``requests`` one after the other. ``fetch`` reads the payload before the clock starts."""
    for index in range(requests):
        request = fetch(index)
        sent_ns = now_ns()
        reply = service.handle(request)
        on_completed(Completed(index, sent_ns, sent_ns, reply))


def open_loop(
    service: Service, fetch: Fetch, offsets_s: Sequence[float], clients: int, on_completed: OnCompleted
) -> None:
    """Let requests go at their scheduled times; ``clients`` threads wait for the replies.

    Payloads are read before the first arrival. The calling thread does nothing but keep the
    schedule. An error in a client thread ends the run and is raised here.
    """
    prepared = [fetch(index) for index in range(len(offsets_s))]
    waiting: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            while (job := waiting.get()) is not None:
                index, scheduled_ns, dispatched_ns = job
                on_completed(Completed(index, scheduled_ns, dispatched_ns, service.handle(prepared[index])))
        except BaseException as error:  # handed to the thread that can raise it
            failures.append(error)

    threads = [threading.Thread(target=serve, name=f"client-{n}", daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    start_ns = now_ns() + 10_000_000  # the first arrival must not be late by the set-up above
    for index, offset_s in enumerate(offsets_s):
        scheduled_ns = start_ns + int(offset_s * 1e9)
        _sleep_until(scheduled_ns)
        if failures:
            break
        waiting.put((index, scheduled_ns, now_ns()))
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _sleep_until(deadline_ns: int) -> None:
    while (left_ns := deadline_ns - now_ns()) > 0:
        time.sleep(left_ns * 1e-9)
