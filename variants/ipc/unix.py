"""Listening on, connecting to and waiting for Unix sockets; shared by the links that use them."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from harness.spans import now_ns
from variants.ipc.attention import Attention, Found
from variants.ipc.types import Lease, PeerGoneError, Sender, Traffic

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

    def read(self, found: Found) -> Lease | None:
        """The next message; None where what came was not a message. Raises ``PeerGoneError``."""
        ...

    def close(self) -> None: ...


class UnixReceiver:
    """Many senders, one reader: accepts, reads whichever is ready, forgets those that died.

    ``accept`` makes the connection of one sender over its socket; all count into the same traffic.
    """

    def __init__(
        self,
        address: str,
        kind: socket.SocketKind,
        accept: Callable[[socket.socket, Traffic], Connection],
    ) -> None:
        self._traffic = Traffic()
        self._listening = listen(address, kind)
        self._accept = accept
        self._epoll = select.epoll()
        self._epoll.register(self._listening, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._watched: dict[Sender, int] = {}  # and the number of the connection that is registered
        self._watched_fds: dict[int, Sender] = {}
        self._attention = Attention()

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def watch(self, sender: Sender) -> None:
        self._watched[sender] = 0

    def receive(self, timeout_s: float | None = None) -> Lease | None:
        self._attention.turn()
        deadline_ns = None if timeout_s is None else now_ns() + round(timeout_s * 1e9)
        wait_s = timeout_s
        while True:
            self._follow_watched()
            for fd, _ in self._epoll.poll(wait_s, 1):  # one: the next call finds the others first
                lease = self._on_ready(fd, self._attention.find())
                if lease is not None:
                    self._attention.leave()
                    return lease
            if deadline_ns is not None:
                wait_s = (deadline_ns - now_ns()) * 1e-9
                if wait_s <= 0:
                    return None

    def leave(self) -> None:
        self._attention.leave()

    def close(self) -> None:
        self._attention.close()
        self._epoll.close()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._listening.close()

    def _on_ready(self, fd: int, found: Found) -> Lease | None:
        connection = self._connections.get(fd)
        if connection is None:
            self._on_other(fd)
            return None
        try:
            return connection.read(found)
        except PeerGoneError:
            self._forget(fd, connection)
            return None

    def _on_other(self, fd: int) -> None:
        if fd in self._watched_fds:
            self._watched_fds[fd].collect()
        else:
            self._welcome()

    def _welcome(self) -> None:
        sock, _ = self._listening.accept()
        self._connections[sock.fileno()] = self._accept(sock, self._traffic)
        self._epoll.register(sock, select.EPOLLIN)

    def _forget(self, fd: int, connection: Connection) -> None:
        self._traffic.broken_links += 1
        del self._connections[fd]
        self._epoll.unregister(fd)
        connection.close()

    def _follow_watched(self) -> None:
        """A sender that connects anew has another descriptor, though perhaps of the same number.

        The kernel forgets a closed one by itself.
        """
        for sender, followed in self._watched.items():
            if sender.connections == followed:
                continue
            self._watched[sender] = sender.connections
            for old in [fd for fd, watched in self._watched_fds.items() if watched is sender]:
                del self._watched_fds[old]
            if (fd := sender.fileno()) != -1:
                self._epoll.register(fd, select.EPOLLIN)
                self._watched_fds[fd] = sender
