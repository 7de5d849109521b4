"""Launches measured processes and follows them, asleep on their pipes while they measure."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError, UsageError
from harness.protocols.children import Child, Life
from harness.protocols.folders import SOCKETS, remove_abandoned
from harness.protocols.interrupts import uninterrupted
from harness.run.job import Job
from harness.run.messages import Message
from harness.run.neighbours import Neighbours
from harness.run.progress import Progress
from harness.run.turns import TURN, Order

_ERRORS: dict[int, type[HarnessError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.UNAVAILABLE: UnavailableError,
    ExitCode.INVALID: InvalidMeasurementError,
}

_LOG_TAIL_LINES = 15
_GRACE_S = 15.0
"""For a process to end what it has started and to write what it has measured."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def library_threads(threads: int) -> dict[str, str]:
    """The environment that gives numerical libraries ``threads`` threads; 0 leaves it as it is.

    They read it when they are loaded, and child processes inherit it.
    """
    if threads == 0:
        return dict(os.environ)
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}


@dataclass(frozen=True)
class Launch:
    """A job, where its progress is shown, and what may put a profiler in front of its command."""

    job: Job
    progress: Progress
    wrap: Callable[[list[str]], list[str]] | None


@dataclass(frozen=True)
class Outcome:
    """What a process had to say: its warnings, and the error that ended it early."""

    warnings: Sequence[str]
    error: HarnessError | None


def run_jobs(launches: Sequence[Launch], silence_s: float) -> list[Outcome]:
    """Run jobs in processes of their own and wait for all.

    Several jobs take turns (see ``harness.run.turns``), in the order given; one that fails, or dies, leaves
    the others their turns. One that comes no further for ``silence_s`` fails by that: a hung kernel must not
    hang a sweep.
    """
    remove_abandoned(SOCKETS)
    with Neighbours() as neighbours:
        outcomes = _run_to_end(launches, silence_s)
        disturbed = neighbours.warnings() if any(each.job.role == "measured" for each in launches) else []
        return [replace(outcome, warnings=[*outcome.warnings, *disturbed]) for outcome in outcomes]


def _run_to_end(launches: Sequence[Launch], silence_s: float) -> list[Outcome]:
    children: list[_Measured] = []
    try:
        for launch in launches:
            children.append(_Measured(launch, len(launches) == 1, silence_s))
        _follow(children, silence_s)
    finally:
        with uninterrupted():
            for child in children:
                child.ask_to_end()
            for child in children:
                child.end(_GRACE_S)
    return [child.outcome for child in children]


def _follow(children: Sequence[_Measured], silence_s: float) -> None:
    """Hear every process out, asleep while none speaks."""
    order, life = Order(children), Life(silence_s)
    _tell(order.current)
    with selectors.DefaultSelector() as selector:

        def leave(child: _Measured) -> None:
            selector.unregister(child.fd)
            child.end(_GRACE_S)
            life.note((child, None))
            if order.leave(child):
                _tell(order.current)

        for child in children:
            selector.register(child.fd, selectors.EVENT_READ, child)
        while order.current is not None:
            heard = selector.select(life.left_s())
            if not heard:  # the others wait for the one whose turn it is
                order.current.give_up(life)
                leave(order.current)
            for key, _ in heard:
                said = key.data.hear()
                life.note((key.data, said))
                if said is None:
                    leave(key.data)
                elif said.kind == "turn":
                    _tell(order.pass_on())


def _tell(child: _Measured | None) -> None:
    if child is not None:
        child.give_turn()


class _Measured:
    """A measured process and what it has said."""

    def __init__(self, launch: Launch, alone: bool, silence_s: float) -> None:
        job = launch.job
        self._role = job.role
        self._doing = ""
        self._warnings: list[str] = []
        self._failure: HarnessError | None = None
        self._alone = alone
        self._silence_s = silence_s
        self._progress = launch.progress
        self._log = Path(job.folder) / f"{job.role}-{job.process}.log"
        with self._log.open("wb") as output:
            self._child = Child(
                "harness.run.worker:main",
                replace(job, alone=alone),
                job.role,
                output=output.fileno(),
                environment=library_threads(int(job.config["runner"]["threads"])),
                wrap=launch.wrap,
                death=signal.SIGTERM,  # it has processes to end and rows to keep
            )
        self.fd = self._child.control.fileno()

    def give_turn(self) -> None:
        if not self._alone:
            self._child.send(TURN)

    def hear(self) -> Message | None:
        """Take in what the process says; None where it has ended."""
        try:
            message: Message = self._child.hear()
        except HarnessError as error:
            self._note_end(error)
            return None
        if message.kind == "warning":
            self._warnings.append(message.text)
        elif message.kind == "error":
            kind = _ERRORS.get(message.exit_code, HarnessError)
            self._fail(kind(message.text))
        else:
            self._doing = message.text if message.kind == "stage" else self._doing
            self._progress.show(message)
        return message

    def give_up(self, life: Life) -> None:
        self._fail(HarnessError(life.over(f"the {self._role} process", self._doing)))

    def _fail(self, failure: HarnessError) -> None:
        self._failure = failure
        if not self._alone:
            self._progress.fail(str(failure))

    def _note_end(self, error: HarnessError) -> None:
        """Its connection is closed. It may take its time to end: a profiler has its report to write."""
        self._child.end(self._silence_s)
        if self._failure is None and self._child.exit_code != 0:
            self._fail(HarnessError(f"{error}. The end of {self._log}:\n{_tail(self._log)}"))

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._warnings, self._failure)

    def ask_to_end(self) -> None:
        self._child.ask_to_end()

    def end(self, grace_s: float) -> None:
        self._child.end(grace_s)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (empty)"
