"""The axis' seam, the long-lived heap that every choice builds, and the record of its pauses.

CPython's collector pauses the whole process (it holds the interpreter lock). A full collection
visits every container that is alive, so its pause grows with the heap; it is due when the objects
that survived the younger generations since the last one exceed a quarter of those that survived it
(``long_lived_pending > long_lived_total / 4``, CPython 3.11–3.13, ``Modules/gcmodule.c`` and
``Python/gc.c``). Thresholds are left as Python sets them: the claim is about ``gc.freeze()`` alone.
"""

from __future__ import annotations

import gc
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.protocols import Evidence
from harness.protocols.options import Count
from harness.spans import now_ns
from variants.topology.types import (
    AbandonStream,
    Backend,
    CommitStream,
    Completion,
    Done,
    Job,
    PushAudio,
    Transcribe,
)

CONTAINERS_PER_SESSION = 10


@dataclass(frozen=True, slots=True)
class HeapOptions:
    """The long-lived objects of a production server, made at start-up and during service."""

    objects: Count = 0
    """Containers that exist once the process has started: sessions and the slots of their pools."""
    words_per_answer: Count = 0
    """Containers that a live session adds to its history at each answer."""
    answers_kept: Count = 50
    """Answers after which a session drops its history all at once, as at the end of an utterance; 0
    keeps it to the session's end."""


class GcPolicy(Protocol):
    """A choice of the axis, in force in the process that called it."""

    def after_startup(self) -> None:
        """Build the long-lived heap and apply the choice; call it when everything else is built."""
        ...

    def watch(self, backend: Backend) -> Backend:
        """``backend``, with live sessions that remember their words (``words_per_answer``)."""
        ...

    def pauses(self) -> list[Pause]: ...

    def evidence(self) -> Evidence: ...

    def close(self) -> None:
        """Stop recording and give the collector back its defaults."""
        ...


@dataclass(frozen=True, slots=True)
class Pause:
    """One collection, on the spans' clock. ``generation`` 2 is a full one."""

    generation: int
    start_ns: int
    end_ns: int
    collected: int

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) * 1e-9


class PauseLog:
    """Records every collection through ``gc.callbacks``; adds nothing that the collector tracks."""

    _MOST = 1 << 17

    def __init__(self) -> None:
        self._numbers = array("q")  # generation, start, end, collected; again and again
        self._start_ns = 0
        self.dropped = 0

    def start(self) -> None:
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._start_ns = now_ns()
        elif len(self._numbers) < 4 * self._MOST:
            self._numbers.extend((info["generation"], self._start_ns, now_ns(), info["collected"]))
        else:
            self.dropped += 1

    def pauses(self) -> list[Pause]:
        flat = self._numbers[:]
        return [Pause(*flat[i : i + 4]) for i in range(0, len(flat) - 3, 4)]


class _PooledSession:
    """One long-lived session; its slots point back to it, as buffers in a pool do to their owner."""

    __slots__ = ("number", "slots")

    def __init__(self, number: int) -> None:
        self.number = number
        # The list of slots and the session itself count too.
        self.slots = [[self, number, index] for index in range(CONTAINERS_PER_SESSION - 2)]


def make_heap(objects: int) -> list[Any]:
    """A list that holds ``objects`` containers the collector tracks, itself not counted."""
    whole, rest = divmod(objects, CONTAINERS_PER_SESSION)
    heap: list[Any] = [_PooledSession(number) for number in range(whole)]
    heap.extend([heap] for _ in range(rest))
    return heap


class Policy:
    """What the three choices share; they differ in ``_apply``."""

    name = ""

    def __init__(self, options: HeapOptions) -> None:
        self._options = options
        self._log = PauseLog()
        self._heap: list[Any] = []
        self._startup_s = 0.0

    def after_startup(self) -> None:
        started_ns = now_ns()
        self._heap = make_heap(self._options.objects)
        self._apply()
        self._startup_s = (now_ns() - started_ns) * 1e-9
        self._log.start()

    def _apply(self) -> None:
        """Tell the collector what this choice has to say."""

    def _not_engaged(self, _pauses: Sequence[Pause]) -> str:
        """Why this choice was not in force, in words; empty where it was."""
        return ""

    def watch(self, backend: Backend) -> Backend:
        if self._options.words_per_answer == 0:
            return backend
        return RememberingBackend(backend, self._options.words_per_answer, self._options.answers_kept)

    def pauses(self) -> list[Pause]:
        return self._log.pauses()

    def evidence(self) -> Evidence:
        pauses = self.pauses()
        why = self._not_engaged(pauses)
        return {
            "gc": {
                **({"not_engaged": why} if why else {}),
                "policy": self.name,
                "python": sys.version.split()[0],
                "enabled": gc.isenabled(),
                "thresholds": list(gc.get_threshold()),
                "preallocated_objects": self._options.objects,
                "words_per_answer": self._options.words_per_answer,
                "answers_kept": self._options.answers_kept,
                "frozen_objects": gc.get_freeze_count(),
                "startup_s": self._startup_s,
                "generations": {str(g): _summary([p for p in pauses if p.generation == g]) for g in range(3)},
                "pauses_not_recorded": self._log.dropped,
            }
        }

    def close(self) -> None:
        self._log.stop()
        gc.unfreeze()
        gc.enable()


def _summary(pauses: list[Pause]) -> dict[str, float | int]:
    durations = [pause.duration_s for pause in pauses]
    return {
        "collections": len(pauses),
        "total_s": sum(durations),
        "max_s": max(durations, default=0.0),
        "collected": sum(pause.collected for pause in pauses),
    }


class RememberingBackend:
    """A backend whose live streams keep the words of their utterance, as production sessions do.

    It stands between server and backend, so that what is measured is the same for every policy.
    """

    def __init__(self, backend: Backend, words_per_answer: int, answers_kept: int) -> None:
        self._backend = backend
        self._words = range(words_per_answer)
        self._most = words_per_answer * answers_kept
        self._history: dict[int, list[Any]] = {}

    def submit(self, job: Job, done: Done) -> None:
        if not isinstance(job, Transcribe):
            done = _Remember(self._history, self._words, self._most, done)
        self._backend.submit(job, done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _Remember:
    """Completion of a stream's job: an answer adds words, an utterance's end drops them all at once."""

    __slots__ = ("_done", "_history", "_most", "_words")

    def __init__(self, history: dict[int, list[Any]], words: range, most: int, done: Done) -> None:
        self._history = history
        self._words = words
        self._most = most
        self._done = done

    def __call__(self, completion: Completion) -> None:
        job = completion.job
        if isinstance(job, PushAudio):
            history = self._history.setdefault(job.stream_id, [])
            if self._most and len(history) >= self._most:
                history.clear()
            history.extend([completion.finished_ns, index, completion.text] for index in self._words)
        elif isinstance(job, CommitStream | AbandonStream):
            self._history.pop(job.stream_id, None)
        self._done(completion)
