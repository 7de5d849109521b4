"""Where a server listens: the socket, its folder, and the way out for a client too many."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from harness.protocols.folders import SOCKETS, OwnFolder
from harness.protocols.sockets import Address, listen, raise_open_files
from harness.protocols.wire import CONNECTION, ErrorCode, encode_error
from variants.io.types import IoOptions

_SPARE_FILES = 64
"""Open files beside the connections: the interpreter's own, the backend's, the listener."""


class Door:
    """A listening socket that is made once and leaves nothing behind."""

    def __init__(self, options: IoOptions) -> None:
        self._options = options
        self._listener: socket.socket | None = None
        self._folder: OwnFolder | None = None
        self.address = Address()

    def bind(self) -> Address:
        """Listen, unless it does already. Raises ``UsageError`` or ``UnavailableError``."""
        if self._listener is None:
            raise_open_files(
                self._options.max_connections + _SPARE_FILES,
                f"io.options.max_connections={self._options.max_connections}",
            )
            self._listener, self.address = listen(self._where(), self._options.backlog)
            self._listener.setblocking(False)
        return self.address

    def _where(self) -> Address:
        options = self._options
        if options.transport == "tcp":
            return Address(host=options.host, port=options.port)
        if options.path:
            return Address(path=options.path)
        self._folder = OwnFolder(SOCKETS)
        return Address(path=str(self._folder.path / "serve.sock"))

    def fileno(self) -> int:
        return -1 if self._listener is None else self._listener.fileno()

    def accept(self) -> socket.socket | None:
        """The next waiting connection, or None. Raises ``OSError`` when no file is left for it."""
        if self._listener is None:
            return None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        if self.address.host:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def turn_away(self, sock: socket.socket) -> None:
        """Tell a client that there is no place for it, if it can be told at once, and hang up."""
        message = f"the server has its {self._options.max_connections} connections; come back later"
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(encode_error(CONNECTION, ErrorCode.TOO_MANY_CONNECTIONS, message))
        sock.close()

    def close(self) -> None:
        """Stop listening and remove the socket, with its folder where that was made for it."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        if self._folder is not None:
            self._folder.close()
        elif self.address.path:
            Path(self.address.path).unlink(missing_ok=True)
