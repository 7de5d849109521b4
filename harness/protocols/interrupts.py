"""The signals that end a command: one interruption, however many of them come, and none of its closing."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """A signal handler that raises ``KeyboardInterrupt`` once.

    The first signal ends what the main thread does; the impatient second Ctrl-C, and the hang-up that comes
    with a closing terminal, must not end the closing of what the first has ended.
    """

    def __init__(self) -> None:
        self._came = False
        self._due = False
        self._held = 0

    def __call__(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        if self._came:
            return
        self._came = True
        self._due = self._held > 0
        if not self._due:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes in this block acts at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._due and not self._held:
                self._due = False
                raise KeyboardInterrupt


def _let_go_of_terminal() -> None:
    """Where it is gone, whatever is said about the ending would be an error of its own."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    for fd, event in poll.poll(0):
        if event & (select.POLLHUP | select.POLLERR):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)


def interrupt_on(*signals: signal.Signals) -> None:
    """One ``Interrupts`` for all of ``signals``. Those that this process was told to ignore (``nohup``, a
    shell's background job) stay ignored, but for SIGTERM."""
    interrupts = Interrupts()
    for number in signals:
        if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupts)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """For starting and ending what has to be ended: an interruption waits until the block is over.

    Without effect in a process without ``interrupt_on``, and in threads, which no signal interrupts.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, Interrupts) and threading.current_thread() is threading.main_thread():
        with handler.held():
            yield
    else:
        yield
