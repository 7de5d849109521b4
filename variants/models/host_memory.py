"""Memory of a model that computes on the CPU: what one batch has used, the next uses again."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Have this process keep blocks of up to 1 GiB that it frees.

    glibc maps each block of more than 32 MiB (mallopt(3): the most that its own threshold rises to) from the
    kernel and returns it when it is freed, so that every page of it is faulted in and cleared again.
    Activations of the first convolutions are as large from eight segments of 2 s on, and a third of the
    encoder's time went there. Other C libraries have their own ways, and are left to them.
    """
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(parameter, _KEPT_BYTES)
