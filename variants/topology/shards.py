"""Recordings handed out in shards to workers that may fail and die; each is answered once, whoever does it.

A worker that has room takes what waits, oldest first. A shard that failed, whether its worker died or not, is
suspected: halved, and done again elsewhere, each half on a worker that has nothing else to do meanwhile, so
that what fails then fails by itself. A recording that has failed so alone for a number of times is given up,
with an error of its own. Nothing else is: what else a worker had when it died is no less suspected, and comes
through.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from harness.errors import HarnessError
from harness.protocols import Reply, Request
from harness.spans import now_ns

_MOST_BARREN = 16
"""Failures between two answers, beside those of all that is handed out at once, after which the workers are
given up instead of the recordings. One that kills whoever does it costs six, in a shard of 16."""


class WorkerDiedError(Exception):
    """A worker is gone, and with it what it was doing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply for each request of a shard, in order. Times are those of the monotonic clock ``clock``."""

    replies: Sequence[Reply]
    began_ns: int
    ended_ns: int
    clock: str


class Fleet(Protocol):
    """The workers, by place from 0. Futures may end in any thread."""

    def run(self, place: int, requests: Sequence[Request]) -> Future[Answer]:
        """Have the worker there do them. Fails with ``WorkerDiedError`` where it is gone, with any other
        exception where it lives."""
        ...

    def replace(self, place: int) -> Future[None]:
        """Start another worker in the place of one that died; ends when that is ready."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A reply, where it comes from, and its way, on this process's clock."""

    reply: Reply
    worker: int
    """Counted from 0 over all that there were: one that replaces another has a number of its own."""
    handed_ns: int
    heard_ns: int
    answer: Answer | None
    """None where the recording was given up."""


@dataclass(slots=True, eq=False)
class _Task:
    request: Request
    ended: threading.Event = field(default_factory=threading.Event)
    served: Served | None = None


@dataclass(slots=True, eq=False)
class _Shard:
    tasks: list[_Task]
    suspected: bool = False
    failed_alone: int = 0
    """As a suspect of one recording."""
    failed_in: frozenset[int] = frozenset()
    """Places."""

    def halves(self) -> Iterator[_Shard]:
        middle = len(self.tasks) // 2
        for tasks in filter(None, (self.tasks[:middle], self.tasks[middle:])):
            yield _Shard(tasks, True, self.failed_alone, self.failed_in)


@dataclass(slots=True, eq=False)
class _Place:
    index: int
    worker: int
    up: bool = True
    shards: list[_Shard] = field(default_factory=list)


class _Handed(NamedTuple):
    place: _Place
    worker: int
    shard: _Shard
    at_ns: int


class Shards:
    """Workers behind ``handle``, for many threads: as many as there are recordings in service at once."""

    def __init__(self, fleet: Fleet, places: int, size: int, at_once: int, attempts: int) -> None:
        """``size``: recordings of a shard, at most; ``at_once``: shards that a worker has at once;
        ``attempts``: how often a recording may fail alone."""
        self._fleet = fleet
        self._size = size
        self._at_once = at_once
        self._attempts = attempts
        self._turn = threading.RLock()  # a future that has ended calls back at once
        self._places = [_Place(index, index) for index in range(places)]
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Shard] = deque()
        self._broken: HarnessError | None = None
        self._barren = 0
        self._most_barren = _MOST_BARREN + places * at_once
        self._workers = places
        self._done = [0] * places
        self._counts = {"shards": 0, "shards_failed": 0, "recordings_done_again": 0}
        self._given_up: list[str] = []
        self._deaths: list[dict[str, Any]] = []

    def handle(self, request: Request) -> Served:
        """The recording's answer, or the error with which it was given up. Raises ``HarnessError`` where
        the workers were."""
        task = _Task(request)
        with self._turn:
            self._waiting.append(task)
            self._hand_out()
        task.ended.wait()
        if task.served is None:
            raise self._broken or HarnessError("the workers are ended")
        return task.served

    def close(self) -> None:
        """Whoever still waits for an answer hears that there will be none."""
        with self._turn:
            self._break(HarnessError("the service is closing"))

    def evidence(self) -> dict[str, Any]:
        """What was done, and again; ``recordings_by_worker`` counts answers."""
        with self._turn:
            return {
                **self._counts,
                "recordings_by_worker": list(self._done),
                "deaths": list(self._deaths),
                "given_up": list(self._given_up),
            }

    # ------------------------------------------------------------ handing out, with the lock held

    def _hand_out(self) -> None:
        while self._broken is None and (chosen := self._next()) is not None:
            place, shard = chosen
            place.shards.append(shard)
            self._counts["shards"] += 1
            handed = _Handed(place, place.worker, shard, now_ns())
            future = self._fleet.run(place.index, [task.request for task in shard.tasks])
            future.add_done_callback(partial(self._ended, handed))
        if self._broken is not None:
            self._release()

    def _next(self) -> tuple[_Place, _Shard] | None:
        """A suspect's place, if possible one in which it has not failed, takes no new work until it idles."""
        up = sorted((place for place in self._places if place.up), key=lambda place: len(place.shards))
        if self._suspects and up:
            failed_in = self._suspects[0].failed_in
            place = next((place for place in up if place.index not in failed_in), up[0])
            if not place.shards:
                return place, self._suspects.popleft()
            up.remove(place)
        free = next(filter(self._has_room, up), None)
        if free is None or not self._waiting:
            return None
        count = min(self._size, len(self._waiting))
        return free, _Shard([self._waiting.popleft() for _ in range(count)])

    def _has_room(self, place: _Place) -> bool:
        return len(place.shards) < self._at_once and not any(shard.suspected for shard in place.shards)

    # ------------------------------------------------------------ what became of it, in any thread

    def _ended(self, handed: _Handed, future: Future[Answer]) -> None:
        error = future.exception()
        heard_ns = now_ns()
        with self._turn:
            handed.place.shards.remove(handed.shard)
            if error is None:
                self._answer(handed, future.result(), heard_ns)
            else:
                self._fail(handed, error, heard_ns)
            self._hand_out()

    def _answer(self, handed: _Handed, answer: Answer, heard_ns: int) -> None:
        self._barren = 0
        self._done[handed.worker] += len(answer.replies)
        for task, reply in zip(handed.shard.tasks, answer.replies, strict=True):
            task.served = Served(reply, handed.worker, handed.at_ns, heard_ns, answer)
            task.ended.set()

    def _fail(self, handed: _Handed, error: BaseException, heard_ns: int) -> None:
        place, shard = handed.place, handed.shard
        self._counts["shards_failed"] += 1
        self._note_barren(error)
        if isinstance(error, WorkerDiedError) and place.up and place.worker == handed.worker:
            self._bury(place, error)
        shard.failed_in |= {place.index}
        shard.failed_alone += shard.suspected and len(shard.tasks) == 1
        if shard.failed_alone >= self._attempts:
            self._give_up(handed, error, heard_ns)
        else:
            self._counts["recordings_done_again"] += len(shard.tasks)
            self._suspects.extend(shard.halves())

    def _give_up(self, handed: _Handed, error: BaseException, heard_ns: int) -> None:
        (task,) = handed.shard.tasks
        name, times = task.request.request_id, handed.shard.failed_alone
        self._given_up.append(name)
        why = f"no worker could do {name}, which failed alone {times} times, the last time: {error}"
        reply = Reply(name, None, (), handed.at_ns, heard_ns, error=why)
        task.served = Served(reply, handed.worker, handed.at_ns, heard_ns, None)
        task.ended.set()

    # ------------------------------------------------------------ workers that die

    def _bury(self, place: _Place, error: BaseException) -> None:
        self._deaths.append({"worker": place.worker, "how": str(error)})
        place.up = False
        self._fleet.replace(place.index).add_done_callback(partial(self._replaced, place))

    def _replaced(self, place: _Place, future: Future[None]) -> None:
        error = future.exception()
        with self._turn:
            if error is None:
                place.up, place.worker = True, self._workers
                self._workers += 1
                self._done.append(0)
            else:
                self._note_barren(error)
                if self._broken is None:
                    self._bury(place, error)
            self._hand_out()

    def _note_barren(self, error: BaseException) -> None:
        self._barren += 1
        if self._barren > self._most_barren:
            self._break(
                HarnessError(
                    f"workers failed {self._barren} times and answered nothing in between; the last time: "
                    f"{error}"
                )
            )

    def _break(self, error: HarnessError) -> None:
        self._broken = self._broken or error
        self._release()

    def _release(self) -> None:
        """Those that wait, those that are suspected, and those that are being done."""
        shards = [*self._suspects, *(shard for place in self._places for shard in place.shards)]
        for task in (*self._waiting, *(task for shard in shards for task in shard.tasks)):
            task.ended.set()
        self._waiting.clear()
        self._suspects.clear()
