"""Listening on, connecting to and waiting for Unix sockets; shared by the links that use them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from harness.spans import now_ns
from variants.ipc.types import Lease, PeerGoneError, Sender

RETRY_S = 0.005


def connect(address: str, kind: socket.SocketKind, timeout_s: float) -> socket.socket:
    """A blocking connection, retried while nobody listens: the peer may be starting again."""
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(address)
            return sock
        except (FileNotFoundError, ConnectionRefusedError) as error:
            sock.close()
            if time.monotonic() > deadline:
                raise PeerGoneError(f"nobody listens at {address} after {timeout_s} s") from error
            time.sleep(RETRY_S)
        except OSError as error:
            sock.close()
            raise PeerGoneError(f"cannot connect to {address}: {error}") from error


def listen(address: str, kind: socket.SocketKind) -> socket.socket:
    """A listening socket at ``address``; what a dead predecessor left there is replaced."""
    with contextlib.suppress(FileNotFoundError):
        Path(address).unlink()
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise PeerGoneError(f"cannot listen at {address}: {error}") from error
    sock.listen(128)
    return sock


class Connection(Protocol):
    """The receiving end of one sender."""

    @property
    def socket(self) -> socket.socket: ...

    def read(self, ready_ns: int) -> Lease | None:
        """The next message; None where what came was not a message. Raises ``PeerGoneError``."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Listener(Generic[C]):
    """Many senders, one reader: accepts, reads whichever is ready, forgets those that died."""

    def __init__(
        self,
        address: str,
        kind: socket.SocketKind,
        accept: Callable[[socket.socket], C],
        on_break: Callable[[], None],
    ) -> None:
        self._listening = listen(address, kind)
        self._accept = accept
        self._on_break = on_break
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._connections: set[C] = set()
        self._watched: list[Sender] = []
        self._watched_fds: dict[int, int] = {}

    def watch(self, sender: Sender) -> None:
        self._watched.append(sender)

    def receive(self, timeout_s: float | None) -> Lease | None:
        ready_ns = now_ns()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._follow_watched()
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            for key, _ in self._selector.select(wait_s):
                lease = self._on_ready(key, ready_ns)
                if lease is not None:
                    return lease
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        self._selector.close()
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._listening.close()

    def _on_ready(self, key: selectors.SelectorKey, ready_ns: int) -> Lease | None:
        if key.data is None:
            self._welcome()
            return None
        if isinstance(key.data, int):
            self._watched[key.data].collect()
            return None
        try:
            lease: Lease | None = key.data.read(ready_ns)
            return lease
        except PeerGoneError:
            self._forget(key.data)
            return None

    def _welcome(self) -> None:
        sock, _ = self._listening.accept()
        try:
            connection = self._accept(sock)
        except PeerGoneError:
            sock.close()
            return
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _forget(self, connection: C) -> None:
        self._on_break()
        self._selector.unregister(connection.socket)
        self._connections.discard(connection)
        connection.close()

    def _follow_watched(self) -> None:
        """A sender's descriptor changes when it connects anew; -1 while it has none."""
        for index, sender in enumerate(self._watched):
            fd, known = sender.fileno(), self._watched_fds.get(index, -1)
            if fd == known:
                continue
            if known != -1:
                with contextlib.suppress(KeyError, OSError, ValueError):
                    self._selector.unregister(known)
            if fd != -1:
                self._selector.register(fd, selectors.EVENT_READ, index)
            self._watched_fds[index] = fd
