"""The seam between connections and computation: what an io server drives.

A ``Backend`` takes jobs without ever blocking its caller and answers each accepted job exactly
once, from a thread of its own, through the callback that came with the job. An event loop passes
``CompletionQueue.put`` as that callback and watches the queue's file descriptor.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from harness.protocols import Reply, Request, Service, WorkKind


class Busy(Exception):
    """The backend holds as much work as it may: slow the client down and submit again later.

    Not an error of the request. Any completion that arrives is the sign that there is room again.
    """


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True, slots=True)
class Transcribe:
    """A whole recording. Completes with ``Completion.reply``.

    ``token`` is the caller's own (a connection, a sequence number); it never leaves the process.
    """

    request: Request
    token: Any = None


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A live stream under an id of the caller's choice, unique among the open streams."""

    stream_id: int
    token: Any = None


@dataclass(frozen=True, slots=True)
class PushAudio:
    """The next stretch of a stream: float32 mono ``[n]`` at the engine's rate.

    Completes once with the text so far in ``Completion.text``, or None where it did not change.
    """

    stream_id: int
    samples: np.ndarray
    token: Any = None


@dataclass(frozen=True, slots=True)
class CommitStream:
    """End of speech. Completes with ``Completion.reply``; the id is free again after that."""

    stream_id: int
    token: Any = None


@dataclass(frozen=True, slots=True)
class AbandonStream:
    """The client is gone: forget the stream. Completes without text, known or not."""

    stream_id: int
    token: Any = None


Kind = WorkKind | Literal["warm_up", "evidence", "batch"]
KINDS: Mapping[type, WorkKind] = {
    Transcribe: "transcribe",
    OpenStream: "open",
    PushAudio: "push",
    CommitStream: "commit",
    AbandonStream: "abandon",
}
"""What a job is called between processes, where three further kinds are the service's own."""

Job = Transcribe | OpenStream | PushAudio | CommitStream | AbandonStream


class Completion(NamedTuple):
    """The one answer to one job. A tuple, because thousands are made per second.

    ``started_ns`` and ``finished_ns`` enclose the work on the job itself, without its waiting.
    """

    job: Job
    error: str | None
    text: str | None
    reply: Reply | None
    started_ns: int
    finished_ns: int


Done = Callable[[Completion], None]
"""Called once per accepted job, from a thread of the backend. Has to be quick and must not raise."""


@runtime_checkable
class Backend(Service, Protocol):
    """A service that can also be driven without blocking. Every topology's ``build`` returns one."""

    def submit(self, job: Job, done: Done) -> None:
        """Accept ``job`` or raise ``Busy``; never waits. Safe from several threads.

        Jobs of one stream are worked on, and completed, in the order of their submission; jobs of
        different streams and whole requests in any order. ``done`` may be called before this
        returns. Jobs that are pending at ``close`` complete with an error.
        """
        ...


# ---------------------------------------------------------------- collecting in an event loop


class CompletionQueue:
    """Completions on their way from backend threads into an event loop.

    Register ``fileno()`` for reading; when it is readable, ``drain()``. Many completions that
    arrive before the loop turns cost one wake-up.
    """

    def __init__(self) -> None:
        self._completions: deque[Completion] = deque()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False

    def fileno(self) -> int:
        return self._wakeup_fd

    def put(self, completion: Completion) -> None:
        """A ``Done`` callback: append and wake the loop unless a wake-up is on its way."""
        self._completions.append(completion)
        # A race here costs a second wake-up, never a lost one: drain() clears the flag before it
        # empties the queue, so whoever finds the flag set appended before the emptying.
        if not self._signalled:
            self._signalled = True
            os.eventfd_write(self._wakeup_fd, 1)

    def drain(self) -> list[Completion]:
        """All completions so far, in order of arrival; empty after a spurious wake-up."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup_fd)
        self._signalled = False
        completions = self._completions
        return [completions.popleft() for _ in range(len(completions))]

    def close(self) -> None:
        """Only after the backend is closed: a later ``put`` would write to a closed descriptor."""
        os.close(self._wakeup_fd)
