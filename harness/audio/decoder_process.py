"""The process that may die of what it decodes: one recording at a time, for the process that started it.

Over its control connection come settings (after an empty message) and payloads; samples go to the shared
file as they are decoded, then one JSON object back: the fields of ``Heard``, or ``error``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from harness.audio.limits import Limits
from harness.audio.reading import read
from harness.audio.target import Target
from harness.errors import RequestError

#: Address space for a recording beyond its own bytes: tables, frames and blocks of 64 channels.
_ROOM_BYTES = 256 * 2**20
_KEPT_BYTES = 16 * 2**20  # of the samples' file between recordings: fresh pages cost as much as the samples


def main(control_fd: int, samples_fd: int) -> None:
    """Serve until the other end of the control connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the starter's to act on
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _silence_libraries()
    threading.Thread(target=_end_with_the_starter, args=(control_fd,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        _serve(Connection(control_fd), samples_fd)


def _serve(control: Connection, samples_fd: int) -> None:
    base_bytes = _address_space_bytes()
    limits, target = Limits(), Target()
    while True:
        payload = control.recv_bytes()
        if not payload:
            limits, target = pickle.loads(control.recv_bytes())
            continue
        _bound_memory(base_bytes + 3 * len(payload) + _ROOM_BYTES)
        answer = _answer(payload, limits, target, samples_fd)
        _bound_memory(resource.RLIM_INFINITY)
        control.send_bytes(json.dumps(answer).encode())


def _answer(payload: bytes, limits: Limits, target: Target, samples_fd: int) -> dict[str, Any]:
    if os.fstat(samples_fd).st_size > _KEPT_BYTES:
        os.ftruncate(samples_fd, 0)
    try:
        return read(payload, limits, target, _File(samples_fd)).fields()
    except RequestError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "the recording claims more memory than its bytes stand for: export it again"}


class _File:
    """A ``Sink`` into the shared file, from its beginning."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.restart()

    def write(self, block: np.ndarray) -> None:
        rest = block.data.cast("B")
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def restart(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)


def _end_with_the_starter(control_fd: int) -> None:
    """Also in the middle of a recording, which may take long."""
    poll = select.poll()
    poll.register(control_fd, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def _silence_libraries() -> None:
    """What C prints is dropped, libmpg123's line for every damaged frame; Python's own errors are not."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)


def _bound_memory(size_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, resource.RLIM_INFINITY))


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()
