"""Other runs that are measured on this machine meanwhile: each learns of the other, and both figures say so.

A run listens on a socket whose name (an abstract one: no file, gone with its process) says that somebody
measures, and connects to all that are there already. Nobody is asked, waited for or woken.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

_NAME = "speech-serving-bench-measures-"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7)
_SOCKETS = Path("/proc/net/unix")


class Neighbours:
    """Present while it is open. Sees those of the same network namespace: a container's, or the machine's."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._pids: set[int] = set()
        self._listener = self._open.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(f"\0{_NAME}{secrets.token_hex(8)}")
        self._listener.listen()
        self._listener.setblocking(False)
        for name in self._others():
            self._call_on(name)

    def _others(self) -> Iterator[str]:
        mine = self._listener.getsockname()[1:].decode()
        names = (line.rpartition(" ")[2] for line in _SOCKETS.read_text(errors="replace").splitlines())
        # A connection that waits to be accepted has its listener's name, too.
        yield from {name[1:] for name in names if name.startswith(f"@{_NAME}")} - {mine}

    def _call_on(self, name: str) -> None:
        caller = self._open.enter_context(socket.socket(socket.AF_UNIX))
        caller.setblocking(False)
        with contextlib.suppress(OSError):  # it has just gone
            caller.connect(f"\0{name}")
            self._note(caller)

    def _note(self, connection: socket.socket) -> None:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self._pids.add(_CREDENTIALS.unpack(told)[0])

    def seen(self) -> list[int]:
        """The processes that have measured since this one is present."""
        with contextlib.suppress(BlockingIOError):
            while True:
                caller, _ = self._listener.accept()
                with caller:
                    self._note(caller)
        return sorted(self._pids - {os.getpid()})

    def warnings(self) -> list[str]:
        seen = ", ".join(map(str, self.seen()))
        why = f"another run was measured here at the same time (process {seen}): each disturbs the other"
        return [f"{why}; measure one at a time (hydra.launcher.n_jobs=1)"] if seen else []

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
