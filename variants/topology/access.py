"""One engine for many threads of a process: who prepares requests, and who steps the engine."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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


def access_to(engine: Engine) -> Shared | OneByOne:
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
    """Of somebody who waits, for ``work`` or for all that were posted."""

    work: Work | None
    handed_in_ns: int = 0
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
        self._arrived: deque[tuple[Work, int]] = deque()  # not yet the engine's, and since when
        self._is_stepped = False
        self._posted = 0

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
            self._arrived.append((work, call.handed_in_ns))
            leads = self._enter(call)
            self._more.notify()
        if not leads:
            call.wake.wait()
        if not call.done_ns:
            self._step(call, lambda: not call.done_ns)
        if not leads:
            _waited(work, call.done_ns)
        return work

    def post(self, work: Work) -> None:
        """Hand in a work that nobody waits for: its ``done`` is called by whoever steps the engine."""
        work.done = partial(self._posted_done, done=work.done)
        with self._more:
            self._posted += 1
            self._arrived.append((work, now_ns()))
            self._more.notify()

    def _posted_done(self, work: Work, done: Callable[[Work], None]) -> None:
        with self._more:
            self._posted -= 1
        done(work)

    def attend(self) -> None:
        """For a thread of its own: step the engine, unless others do, until all that was posted is done."""
        call = _Call(None)
        with self._more:
            leads = self._enter(call)
        if not leads:
            call.wake.wait()
        self._step(call, lambda: self._posted > 0)

    def _enter(self, call: _Call) -> bool:
        """Whether this caller is the one to step the engine (it holds the lock)."""
        self._calls.append(call)
        leads, self._is_stepped = not self._is_stepped, True
        return leads

    def _step(self, call: _Call, goes_on: Callable[[], bool]) -> None:
        try:
            while goes_on():
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
            work, since_ns = self._arrived.popleft()
            _waited(work, since_ns)
            self._engine.submit(work)

    def _hand_over(self, mine: _Call) -> None:
        with self._more:
            self._calls.remove(mine)
            while self._calls and self._calls[0].done_ns:
                self._calls.popleft()
            self._is_stepped = bool(self._calls)
            if self._calls:
                self._calls[0].wake.set()


def _waited(work: Work, since_ns: int) -> None:
    work.spans.add("queue", since_ns, now_ns())
