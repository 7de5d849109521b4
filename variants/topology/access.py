"""One engine for many threads of a process: who prepares requests, and who steps the engine."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from harness.protocols import Engine, Work
from harness.protocols.engine import finish
from harness.spans import now_ns

Prepare = Callable[[Work], None]
"""The front end: fills in the work's segments, or its ``error``."""


class EngineAccess(Protocol):
    def serve(self, work: Work, prepare: Prepare, entered_ns: int) -> None:
        """Prepare ``work`` when it is its turn, and do it; waiting since ``entered_ns`` is its ``queue``."""
        ...

    def finish(self, work: Work) -> Work:
        """Do a work that is prepared; its ``done`` may be replaced."""
        ...


def access_to(engine: Engine) -> EngineAccess:
    return Shared(engine) if engine.batches else OneByOne(engine)


class OneByOne:
    """One request at a time, from its front end to its answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()

    def serve(self, work: Work, prepare: Prepare, entered_ns: int) -> None:
        with self._turn:
            _waited(work, entered_ns)
            prepare(work)
            if work.error is None:
                finish(self._engine, work)

    def finish(self, work: Work) -> Work:
        with self._turn:
            return finish(self._engine, work)


@dataclass(slots=True, eq=False)
class _Call:
    work: Work
    handed_in_ns: int
    wake: threading.Event = field(default_factory=threading.Event)
    """Its work is done, or it is this caller's turn to step."""
    done_ns: int = 0

    def done(self, _work: Work) -> None:
        self.done_ns = now_ns()
        self.wake.set()


class Shared:
    """Front ends side by side, as many as there are cores, and an engine that batches what comes of them.

    Whoever finds the engine free steps it, for all who have come meanwhile, until its own work is done; then
    the one that has waited longest takes over. A caller that is alone hands nothing over to another thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cores = threading.Semaphore(len(os.sched_getaffinity(0)))
        self._more = threading.Condition()
        self._calls: deque[_Call] = deque()  # oldest first, those that are done included for a while
        self._arrived: deque[_Call] = deque()  # of these, not yet the engine's
        self._is_stepped = False

    def serve(self, work: Work, prepare: Prepare, entered_ns: int) -> None:
        with self._cores:
            _waited(work, entered_ns)
            prepare(work)
        if work.error is None:
            self.finish(work)

    def finish(self, work: Work) -> Work:
        """``queue`` is the time before the engine takes the work, and from its end until the caller runs."""
        call = _Call(work, now_ns())
        work.done = call.done
        with self._more:
            self._calls.append(call)
            self._arrived.append(call)
            leads, self._is_stepped = not self._is_stepped, True
            self._more.notify()
        if not leads:
            call.wake.wait()
        if not call.done_ns:
            self._step_until_done(call)
        if not leads:
            _waited(work, call.done_ns)
        return work

    def _step_until_done(self, call: _Call) -> None:
        try:
            while not call.done_ns:
                self._admit()
                if not self._engine.step():
                    with self._more:
                        if not self._arrived:
                            self._more.wait(self._engine.due_in_s)
        finally:
            self._hand_over(call)

    def _admit(self) -> None:
        """Give the engine what it would batch with what it has."""
        while self._arrived and self._engine.wants_work:
            call = self._arrived.popleft()
            _waited(call.work, call.handed_in_ns)
            self._engine.submit(call.work)

    def _hand_over(self, mine: _Call) -> None:
        with self._more:
            self._calls.remove(mine)
            while self._calls and self._calls[0].done_ns:
                self._calls.popleft()
            self._is_stepped = bool(self._calls)
            if self._calls:
                self._calls[0].wake.set()


def _waited(work: Work, since_ns: int) -> None:
    """A live stream's works record no spans."""
    if work.kind == "transcribe":
        work.spans.add("queue", since_ns, now_ns())
