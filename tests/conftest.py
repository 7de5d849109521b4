"""What holds for every test."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    _heed_interrupts()
    _one_thread()


def _heed_interrupts() -> None:
    """A shell's job in the background ignores them, and so would every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _one_thread() -> None:
    """One thread for the numerical libraries, as in the processes that are measured (``runner.threads``):
    their threads spin while they wait for each other, which costs several times what it saves where two
    workers share two cores. Here it is early enough: no test module, and so no library, is imported yet."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
