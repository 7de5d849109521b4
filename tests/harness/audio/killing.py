"""Decoders that end while they decode, as a defect of theirs would end them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import psutil

WORKS_S = 0.3
"""Of a core: a decoder that has used as much is in the middle of a long recording."""


@contextlib.contextmanager
def decoders_killed(find: Callable[[], Iterable[psutil.Process]]) -> Iterator[None]:
    """Those of ``find`` once they work, again and again: one that had just finished costs nothing."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01):
            for process in find():
                with contextlib.suppress(psutil.Error):  # it has ended since it was listed
                    works = process.status() == "running" and process.cpu_times().user > WORKS_S
                    if works and "decoder_process" in " ".join(process.cmdline()):
                        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
