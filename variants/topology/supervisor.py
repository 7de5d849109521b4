"""Keeps the processes of a service alive: notices a death at once, starts anew with bounded back-off."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.protocols import BuildProgress, silent
from harness.protocols.children import Child, Doing
from variants.topology.process import start as start_worker
from variants.topology.worker import WorkerPlan

_END_TIMEOUT_S = 4.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Delays double from ``first_delay_s`` to ``longest_delay_s`` with each death inside the window.

    More than ``max_restarts`` of one process inside ``window_s`` and the service is given up: a
    process that cannot live is not a fault to hide.
    """

    first_delay_s: float = 0.05
    longest_delay_s: float = 2.0
    max_restarts: int = 5
    window_s: float = 60.0

    def delay_s(self, deaths_in_window: int) -> float:
        return min(self.first_delay_s * 2.0 ** (deaths_in_window - 1), self.longest_delay_s)


@dataclass(slots=True)
class Death:
    """One process that ended on its own; times on the monotonic clock."""

    name: str
    pid: int
    how: str
    at_s: float
    back_after_s: float | None = None


@dataclass(slots=True)
class _Place:
    """Where a process belongs: the running one, or when the next is due."""

    plan: WorkerPlan
    process: Child | None = None
    due_s: float | None = None


class Supervisor:
    """``on_down`` and ``on_up`` are called from the supervisor's thread, ``progress`` from that too."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        policy: RestartPolicy,
        on_down: Callable[[WorkerPlan, str], None],
        on_up: Callable[[WorkerPlan], None],
        progress: BuildProgress = silent,
    ) -> None:
        self._places = {plan.name: _Place(plan) for plan in plans}
        self._policy = policy
        self._on_down = on_down
        self._on_up = on_up
        self._progress = progress
        self._deaths: list[Death] = []
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, None)
        self._closing = False
        self._thread: threading.Thread | None = None
        self.given_up: str | None = None

    def start(self) -> None:
        """Start all processes side by side; return when all are ready. Raises what stopped one."""
        try:
            for place in self._places.values():
                place.process = start_worker(place.plan)
            for place in self._places.values():
                self._running(place).answer(self._progress)
                self._watch(place)
                self._note_up(place)
        except BaseException:
            self._end_all()
            raise
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all processes. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._thread is not None:
            os.eventfd_write(self._wake_fd, 1)
            self._thread.join()
        else:
            self._end_all()
        self._selector.close()
        os.close(self._wake_fd)

    def pids(self) -> dict[str, int]:
        return {name: place.process.pid for name, place in self._places.items() if place.process is not None}

    @property
    def deaths(self) -> Sequence[Death]:
        return self._deaths

    def evidence(self) -> dict[str, Any]:
        deaths = [
            {"name": d.name, "pid": d.pid, "how": d.how, "at_s": d.at_s, "back_after_s": d.back_after_s}
            for d in self._deaths
        ]
        return {"deaths": deaths, "given_up": self.given_up}

    def _running(self, place: _Place) -> Child:
        if place.process is None:
            raise HarnessError(f"{place.plan.name} is not running")
        return place.process

    def _end_all(self) -> None:
        processes = [place.process for place in self._places.values() if place.process is not None]
        for process in processes:
            process.ask_to_end()
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        for process in processes:
            process.end(max(0.0, deadline_s - time.monotonic()))
        for place in self._places.values():
            place.process = None

    # ------------------------------------------------------------ the supervisor's thread

    def _run(self) -> None:
        try:
            self._supervise()
        finally:
            # Here, and not in close(): the kernel kills what a thread has started when the thread ends.
            self._end_all()

    def _supervise(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._until_due_s()):
                # a death takes the other events of its process with it
                if key.data is not None and key.fd in self._selector.get_map():
                    place, event = key.data
                    event(place)
            for place in self._places.values():
                if place.due_s is not None and place.due_s <= time.monotonic():
                    self._start_again(place)

    def _until_due_s(self) -> float | None:
        due = [place.due_s for place in self._places.values() if place.due_s is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _start_again(self, place: _Place) -> None:
        place.due_s = None
        place.process = start_worker(place.plan)
        self._watch(place)

    def _watch(self, place: _Place) -> None:
        process = self._running(place)
        self._selector.register(process.pid_fd, selectors.EVENT_READ, (place, self._note_death))
        self._selector.register(process.control.fileno(), selectors.EVENT_READ, (place, self._note_word))

    def _note_word(self, place: _Place) -> None:
        """What it builds, or that it is ready."""
        process = self._running(place)
        try:
            said = process.hear()
        except HarnessError:  # its death is noted by its pid_fd
            self._selector.unregister(process.control.fileno())
            return
        if isinstance(said, Doing):
            self._progress(*said)
        else:
            self._note_up(place)

    def _note_up(self, place: _Place) -> None:
        for death in reversed(self._deaths):
            if death.name == place.plan.name:
                death.back_after_s = time.monotonic() - death.at_s
                break
        self._on_up(place.plan)

    def _note_death(self, place: _Place) -> None:
        process = self._running(place)
        for fd in (process.pid_fd, process.control.fileno()):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)
        place.process = None
        process.end(0)
        now_s, how = time.monotonic(), process.ending()
        self._deaths.append(Death(place.plan.name, process.pid, how, now_s))
        recent = sum(
            d.name == place.plan.name and now_s - d.at_s < self._policy.window_s for d in self._deaths
        )
        if recent > self._policy.max_restarts:
            self.given_up = (
                f"{place.plan.name} died {recent} times in {self._policy.window_s:g} s, last {how}; "
                "its messages are on standard error"
            )
        else:
            place.due_s = now_s + self._policy.delay_s(recent)
        self._on_down(place.plan, how)
