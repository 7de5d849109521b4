"""A connection for each thread that asks for one, kept until the end."""

from __future__ import annotations

import threading

from harness.target.exchange import HttpConnection, Limits


class PerThread:
    """``own`` is the calling thread's connection, made when it first asks."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: list[HttpConnection] = []

    @property
    def own(self) -> HttpConnection:
        connection: HttpConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = HttpConnection(self._limits)
            self._local.connection = connection
            with self._lock:
                self._all.append(connection)
        return connection

    def close(self) -> None:
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
