"""How every command of this project speaks and ends: one line for the user, one exit code for CI."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.errors import ExitCode, HarnessError
from harness.printable import printable
from harness.protocols.interrupts import interrupt_on

INTERRUPTED = 130
"""The shell's convention for a process that SIGINT ended."""


def command(main: Callable[[], int]) -> int:
    """Run ``main`` as a process's command: nothing that its terminal or pipe lacks can end it.

    A character that the encoding lacks is printed as ``?``. Where the reader of a pipe has left
    (``… | head``), the rest is dropped, and the exit code is still that of the work.
    """
    sys.stdout = _lasting(sys.stdout, _Output)
    sys.stderr = _lasting(sys.stderr, _Stream)
    return guarded(main)


def end_on_signals() -> None:
    """A supervisor's SIGTERM, or a terminal that goes away, ends a command as Ctrl-C does: what was measured
    is merged and kept, whatever comes after the first of them."""
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(action: Callable[[], int]) -> int:
    """``action``'s exit code; an error becomes one line on stderr and the code of its kind."""
    try:
        return action()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        print(
            "error: this is a defect of the harness, not of your input; the trace above says where",
            file=sys.stderr,
        )
        return int(ExitCode.INTERNAL)


class _Stream(io.TextIOWrapper):
    """Text to a descriptor that may be a pipe whose reader leaves."""

    def write(self, text: str, /) -> int:
        with self._reader_may_leave():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader_may_leave():
            super().flush()

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is buffered, and all that follows, goes there
            os.close(nowhere)


class _Output(_Stream):
    """Standard output: transcripts and names of others cannot drive the terminal through it."""

    def write(self, text: str, /) -> int:
        return super().write(printable(text))


def _lasting(stream: TextIO | None, kind: type[_Stream]) -> TextIO:
    """``stream`` again on the same descriptor; to nowhere if the process was started without one."""
    if stream is None:
        return Path(os.devnull).open("w")
    stream.flush()
    raw = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115
    at_once = stream.isatty() or kind is _Stream or getattr(stream, "write_through", False)  # python -u
    return kind(raw, encoding=stream.encoding, errors="replace", line_buffering=at_once)
