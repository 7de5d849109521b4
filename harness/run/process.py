"""Launches one measured process and follows it, asleep on a pipe while it measures."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError, UsageError
from harness.run.job import Job
from harness.run.messages import Message, parse
from harness.run.progress import Progress

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


def run_job(
    job: Job, progress: Progress, silence_s: float, wrap: Callable[[list[str]], list[str]]
) -> list[str]:
    """Run ``job`` in a process of its own and wait for it. Returns its warnings.

    ``wrap`` may put a profiler in front of the command. A process that says nothing for
    ``silence_s`` is killed: a hung kernel must not hang a sweep. Raises the error that the process
    reported, or one with the end of its log where it died without a word.
    """
    folder = Path(job.folder)
    log = folder / f"{job.role}-{job.process}.log"
    with _message_pipe() as (read_fd, write_fd):
        order = folder / f"{job.role}-{job.process}.job.json"
        replace(job, message_fd=write_fd).write(order)
        environment = library_threads(int(job.config["runner"]["threads"]))
        command = wrap([sys.executable, "-m", "harness.run.worker", str(order)])
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, pass_fds=(write_fd,), env=environment
            )
        os.close(write_fd)
        try:
            warnings, failure = _follow(read_fd, progress, silence_s)
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
    if failure is not None:
        raise _ERRORS.get(failure.exit_code, HarnessError)(failure.text)
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code != 0:
        raise HarnessError(
            f"the {job.role} process ended with {_ending(code)}. The end of {log}:\n{_tail(log)}"
        )
    order.unlink()
    return warnings


def _follow(fd: int, progress: Progress, silence_s: float) -> tuple[list[str], Message | None]:
    warnings: list[str] = []
    failure: Message | None = None
    for message in _messages(fd, silence_s):
        if message.kind == "warning":
            warnings.append(message.text)
        elif message.kind == "error":
            failure = message
        else:
            progress.show(message)
    return warnings, failure


def _messages(fd: int, silence_s: float) -> Iterator[Message]:
    """Messages until the process closes its end."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if not selector.select(silence_s):
                raise HarnessError(
                    f"the process said nothing for {silence_s:.0f} s and was stopped: it hangs, or one "
                    "request takes that long; raise runner.start_timeout_s in that case"
                )
            data = os.read(fd, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            yield from map(parse, lines)


@contextmanager
def _message_pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose write end a child may inherit; the caller closes that one itself."""
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)


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
