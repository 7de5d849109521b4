"""A child process that ends when its parent does, however that ends. No torch, standard library only.

Two ways, because each has a hole: the death signal is Linux's, and is sent when the parent's *thread* that
started the child ends; the pipe closes with the last process that holds its other end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Called by the child: die with the process ``parent``, which holds the other end of standard input."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without prctl: the pipe is left
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the signal was set
        _end()
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    _end()


def _end() -> None:
    """At once: whatever the main thread is in the middle of, nobody will read it."""
    os._exit(1)
