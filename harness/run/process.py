"""Launches measured processes and follows them, asleep on their pipes while they measure."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError, UsageError
from harness.run.job import Job
from harness.run.messages import Message, parse
from harness.run.progress import Progress
from harness.run.turns import Place, ring

_ERRORS: dict[int, type[HarnessError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.UNAVAILABLE: UnavailableError,
    ExitCode.INVALID: InvalidMeasurementError,
}

_LOG_TAIL_LINES = 15
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
    wrap: Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Outcome:
    """What a process had to say: its warnings, and the error that ended it early."""

    warnings: Sequence[str]
    error: HarnessError | None


def run_jobs(launches: Sequence[Launch], silence_s: float) -> list[Outcome]:
    """Run jobs in processes of their own and wait for all.

    Several jobs take turns (see ``harness.run.turns``), in the order given; one that reports an error leaves
    the others their turns. Processes that say nothing for ``silence_s`` are killed: a hung kernel must not
    hang a sweep. Raises an error with the end of its log for one that died without a word.
    """
    children: list[_Child] = []
    try:
        with ring(len(launches)) as places:
            for launch, place in zip(launches, places, strict=True):
                children.append(_Child(launch, place if len(launches) > 1 else None))
        _follow(children, silence_s)
    finally:
        for child in children:
            child.close()
    return [child.outcome for child in children]


def _follow(children: Sequence[_Child], silence_s: float) -> None:
    """Hear every process out, asleep while none speaks. Processes that failed have only each other to pass
    the token to once there are no others."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.fd, selectors.EVENT_READ, child)
        while selector.get_map() and not all(child.failed for child in children):
            heard = selector.select(silence_s)
            if not heard:
                raise HarnessError(
                    f"the process said nothing for {silence_s:.0f} s and was stopped: it hangs, or one "
                    "request takes that long; raise runner.start_timeout_s in that case"
                )
            for key, _ in heard:
                speaker: _Child = key.data
                if not speaker.hear():
                    selector.unregister(key.fd)
                    speaker.check_end()


class _Child:
    """A launched process and what it has said."""

    def __init__(self, launch: Launch, place: Place | None) -> None:
        job = launch.job
        folder = Path(job.folder)
        self._warnings: list[str] = []
        self._failure: Message | None = None
        self._among_others = place is not None
        self._pending = b""
        self._job = job
        self._progress = launch.progress
        self._log = folder / f"{job.role}-{job.process}.log"
        self._order = folder / f"{job.role}-{job.process}.job.json"
        with _message_pipe() as (self.fd, write_fd):
            replace(job, message_fd=write_fd, place=place).write(self._order)
            inherited = (write_fd,) if place is None else (write_fd, place.take_fd, place.give_fd)
            with self._log.open("wb") as output:
                self._process = subprocess.Popen(
                    launch.wrap([sys.executable, "-m", "harness.run.worker", str(self._order)]),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=inherited,
                    env=library_threads(int(job.config["runner"]["threads"])),
                )

    def hear(self) -> bool:
        """Take in what the process has sent; whether it may say more."""
        data = os.read(self.fd, 65536)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for message in map(parse, lines):
            if message.kind == "warning":
                self._warnings.append(message.text)
            elif message.kind == "error":
                self._failure = message
                if self._among_others:
                    self._progress.fail(message)
            else:
                self._progress.show(message)
        return bool(data)

    def check_end(self) -> None:
        """Wait for the process, which has closed its pipe; raise what ended it without a word."""
        code = self._process.wait()
        if self._failure is not None:
            return
        if code == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if code != 0:
            raise HarnessError(
                f"the {self._job.role} process ended with {_ending(code)}. "
                f"The end of {self._log}:\n{_tail(self._log)}"
            )
        self._order.unlink()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def outcome(self) -> Outcome:
        if self._failure is None:
            return Outcome(self._warnings, None)
        kind = _ERRORS.get(self._failure.exit_code, HarnessError)
        return Outcome(self._warnings, kind(self._failure.text))

    def close(self) -> None:
        if self._process.poll() is None:
            _stop(self._process)
        os.close(self.fd)


@contextmanager
def _message_pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose write end is for a child, and open here within the block alone."""
    read_fd, write_fd = os.pipe()
    try:
        yield read_fd, write_fd
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, so that it can close what it opened; then insist."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (empty)"
