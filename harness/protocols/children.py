"""A child process of ours, from both sides: how it starts, what it says, and that it ends with its parent.

A fresh interpreter rather than a fork or ``multiprocessing``'s spawn: it imports what its job names and
nothing of the program that started it, above all not torch; and nobody waits for it to read its job.

No child outlives its parent, however that came to its end:

- its control connection closes, because the parent asked it to end or is gone (``when_closed``);
- the kernel sends it a signal when its parent dies (``PR_SET_PDEATHSIG``), which also ends one that is stuck
  in native code. The kernel means the *thread* that started it: let that live as long as the child;
- the parent ends by force a child that does not end in time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import HarnessError
from harness.protocols import BuildProgress, silent
from harness.protocols.interrupts import uninterrupted

_BOOT = (
    "import sys; sys.path[:] = {path!r}; from harness.protocols.children import main; "
    "main({control}, {job}, {parent}, {death})"
)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TERMINAL = frozenset((signal.SIGINT, signal.SIGHUP))
"""What a terminal sends to all: children leave it to their parent to decide what that ends."""


class Doing(NamedTuple):
    """A child's word on what it is busy with: the arguments of a ``BuildProgress``."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Failed:
    """A child ended with ``error`` where that is one of ours, else with what ``trace`` says."""

    error: HarnessError | None
    trace: str


# ---------------------------------------------------------------- the parent's side


class Child:
    """A running process and the connection to it. ``pid_fd`` becomes readable when it ends."""

    def __init__(
        self,
        target: str,
        job: Any,
        name: str,
        *,
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
        wrap: Callable[[list[str]], list[str]] | None = None,
        death: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start ``target`` (``"module:function"``), which is called with ``job`` and its control connection.

        ``output`` takes its standard output and errors; ``wrap`` puts another command (a profiler) in front;
        ``death`` is what the kernel sends it when this process dies. Raises what ``pickle`` raises.
        """
        self.name = name
        message = pickle.dumps((target, tempfile.gettempdir(), pickle.dumps(job)))
        with uninterrupted():
            ours, theirs = socket.socketpair()
            with theirs, _in_memory(message) as job_fd, _blocked(_TERMINAL):
                boot = _BOOT.format(
                    path=sys.path,
                    control=theirs.fileno(),
                    job=job_fd,
                    parent=0 if wrap else os.getpid(),
                    death=int(death),
                )
                command = [sys.executable, "-c", boot, name]
                self._popen = subprocess.Popen(
                    wrap(command) if wrap else command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=None if output is None else subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), job_fd),
                    env=environment,
                )
            self.control = Connection(ours.detach())
            self.pid_fd = os.pidfd_open(self.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, value: Any) -> None:
        """Where it is gone already, whoever listens to it hears of that."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(value)

    def hear(self) -> Any:
        """The next that it says; waits. Raises the error that it ended with, and ``HarnessError`` where it
        ended without a word."""
        try:
            said = self.control.recv()
        except (EOFError, OSError):
            raise HarnessError(f"the {self.name} process ended unexpectedly: {self.ending()}") from None
        if isinstance(said, Failed):
            raise said.error or HarnessError(f"the {self.name} process failed:\n{said.trace}")
        return said

    def answer(self, progress: BuildProgress = silent, silence_s: float | None = None) -> Any:
        """The next that it says but for its progress, which goes to ``progress``.

        Raises what ``hear`` raises, and ``HarnessError`` for one that in ``silence_s`` neither answers nor
        comes any further.
        """
        life, doing = Life(silence_s), ""
        while True:
            left_s = life.left_s()
            if left_s is not None and not self.control.closed and not self.control.poll(left_s):
                raise HarnessError(life.over(f"the {self.name} process", doing))
            said = self.hear()
            if not isinstance(said, Doing):
                return said
            life.note(said)
            doing = said.what
            progress(*said)

    def ending(self) -> str:
        """How it ended; waits a moment for one that has closed its connection."""
        self._wait(1.0)
        code = self._popen.poll()
        if code is None:
            return "it is still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def ask_to_end(self) -> None:
        self.control.close()

    def end(self, grace_s: float) -> None:
        """Ask it to end, wait, and bring it about after ``grace_s``. May be called again."""
        with uninterrupted():
            self.ask_to_end()
            if not self._wait(grace_s):
                self._popen.kill()
            self._popen.wait()
            if self.pid_fd != -1:
                os.close(self.pid_fd)
                self.pid_fd = -1

    def _wait(self, timeout_s: float) -> bool:
        if self._popen.poll() is None and self.pid_fd != -1:
            poll = select.poll()
            poll.register(self.pid_fd, select.POLLIN)
            poll.poll(timeout_s * 1e3)
        return self._popen.poll() is not None


class Life:
    """What a process says as the sign that it comes further. The same again is none: a thread can say that
    while the work stands still."""

    def __init__(self, silence_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._silence_s = silence_s
        self._clock = clock
        self._last: object = None
        self._heard_s = clock()

    def note(self, said: object) -> None:
        if said != self._last:
            self._last, self._heard_s = said, self._clock()

    def left_s(self) -> float | None:
        """Until the limit, at least 0; None without one."""
        if self._silence_s is None:
            return None
        return max(0.0, self._heard_s + self._silence_s - self._clock())

    def over(self, who: str, doing: str) -> str:
        """What to say when the limit has passed; ``doing``: the last it said that it does."""
        after = f" after {doing!r}" if doing else ""
        return (
            f"{who} came no further for {self._silence_s:g} s{after} and was stopped: it hangs, or one step "
            "takes that long; raise runner.silence_timeout_s in that case"
        )


@contextlib.contextmanager
def _blocked(signals: Set[signal.Signals]) -> Iterator[None]:
    """A process that is started in the block begins so, and can ignore them before any comes through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A file without a name, at its beginning: unlike a pipe it takes any size before somebody reads."""
    fd = os.memfd_create("job", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


# ---------------------------------------------------------------- the child's side


def main(control_fd: int, job_fd: int, parent: int, death: int) -> None:
    """The child's entry point. What its function returns is its exit status."""
    if parent:  # otherwise a command stands in between, and is the parent
        _end_with(parent, death)
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINAL)
    control = Connection(control_fd)
    try:
        with os.fdopen(job_fd, "rb") as file:
            # Looking for the folder means to try a file in it, which stays where the child is killed then.
            target, tempfile.tempdir, job = pickle.load(file)
        code = pkgutil.resolve_name(target)(pickle.loads(job), control)
    except KeyboardInterrupt:  # of ``interrupt_on``
        code = 128 + signal.SIGTERM
    except BaseException as error:
        ours = error if isinstance(error, HarnessError) else None
        if ours is None:
            traceback.print_exc()
        with contextlib.suppress(OSError):  # nobody listens any more
            control.send(Failed(ours, traceback.format_exc()))
        code = 1
    sys.exit(code)


def when_closed(control: Connection, act: Callable[[], object], grace_s: float) -> None:
    """Once the parent closes the connection, however it came to that, ``act`` in a thread of its own and,
    where that has not ended this process within ``grace_s``, end it by force."""

    def watch() -> None:
        poll = select.poll()
        poll.register(control.fileno(), select.POLLRDHUP)  # what was sent is not touched
        poll.poll()
        act()
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="control", daemon=True).start()


def teller(control: Connection) -> BuildProgress:
    """A ``BuildProgress`` that tells the parent."""
    turn = threading.Lock()

    def tell(what: str, done: int = 0, total: int = 0) -> None:
        with turn, contextlib.suppress(OSError):  # nobody listens: when_closed sees to the end
            control.send(Doing(what, done, total))

    return tell


def _end_with(parent: int, death: int) -> None:
    """Have the kernel send ``death`` when the parent dies, unless it has died meanwhile."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def peak_rss_bytes(pid: int | None = None) -> int | None:
    """The high-water mark (``VmHWM``) of a process, or of this one; None where it has ended. ``getrusage``
    would count what its parent held when it was forked, too."""
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    marks = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(mark) << 10 for mark in marks), None)
