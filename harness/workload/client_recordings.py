"""Whole recordings over the wire: a client that looks like a service, for the closed and open loops.

Each calling thread has a connection of its own, kept between requests. What lies between this
client and the server's own spans is accounted too: ``ipc`` until the server began, ``reply`` from
its end until the answer was read.
"""

from __future__ import annotations

import itertools
import select
import socket
import threading
from dataclasses import replace

from harness.protocols import Reply, Request
from harness.protocols.sockets import Address, connect
from harness.protocols.wire import (
    CONNECTION,
    Encoding,
    Frame,
    FrameReader,
    FrameType,
    Limits,
    Mode,
    Open,
    decode_error,
    decode_final,
    encode,
    encode_header,
    encode_open,
)
from harness.spans import Span, now_ns

_PIECE_BYTES = 256 << 10
_SCRATCH_BYTES = 64 << 10
_OPENING = Open(Mode.RECORDING, Encoding.CONTAINER)


class RecordingClient:
    """``handle`` as a ``Service`` has it, answered by the server at ``address``.

    Safe from several threads. What goes wrong with a request, the connection included, is its
    reply's ``error``; the next request connects again.
    """

    def __init__(self, address: Address, timeout_s: float = 120.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._own = threading.local()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()

    def handle(self, request: Request) -> Reply:
        """Send one recording and block until its answer."""
        sent_ns = now_ns()
        try:
            connection = self._connection()
            frame = connection.ask(request.payload)
            received_ns = now_ns()
            return _reply(frame, request.request_id, sent_ns, received_ns)
        except (OSError, ValueError, EOFError) as error:
            self._drop()
            return _failed(request.request_id, f"the connection to {self._address} broke: {error}", sent_ns)

    def close(self) -> None:
        """Close the connections of every thread."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._own, "connection", None)
        if connection is not None and connection.over:  # it was idle for longer than the server waits
            self._drop()
            connection = None
        if connection is None:
            connection = _Connection(connect(self._address, self._timeout_s))
            self._own.connection = connection
            with self._lock:
                self._connections.add(connection)
        return connection

    def _drop(self) -> None:
        connection: _Connection | None = getattr(self._own, "connection", None)
        if connection is not None:
            self._own.connection = None
            connection.close()
            with self._lock:
                self._connections.discard(connection)


class _Connection:
    """A persistent connection that asks one recording at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(Limits())
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._sessions = itertools.count(1)

    @property
    def over(self) -> bool:
        """Whether the server has something to say though nothing was asked: that it hangs up."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def ask(self, payload: bytes) -> Frame:
        """The frame that ends the session. Raises ``OSError``, ``EOFError`` or ``ValueError``."""
        session = next(self._sessions)
        view = memoryview(payload)
        self._sock.sendall(encode_open(session, _OPENING))
        starts = range(0, len(view), _PIECE_BYTES)
        for sequence, start in enumerate(starts, 1):
            self._send_piece(session, sequence, view[start : start + _PIECE_BYTES])
        self._sock.sendall(encode(FrameType.COMMIT, session, len(starts) + 1))
        return self._end_of(session)

    def _send_piece(self, session: int, sequence: int, piece: memoryview) -> None:
        header = encode_header(FrameType.AUDIO, session, sequence, len(piece))
        sent = self._sock.sendmsg([header, piece])  # not joined: that would copy the piece
        if sent < len(header):
            self._sock.sendall(header[sent:])
            sent = len(header)
        self._sock.sendall(piece[sent - len(header) :])

    def _end_of(self, session: int) -> Frame:
        while True:
            target = self._reader.target(self._scratch)
            received = self._sock.recv_into(target)
            if not received:
                raise EOFError("it was closed before the answer")
            for frame in self._reader.feed(target, received):
                over = frame.type in (FrameType.FINAL, FrameType.ERROR)
                if over and frame.session in (session, CONNECTION):
                    return frame
            if self._reader.error is not None:
                raise ValueError(str(self._reader.error))

    def close(self) -> None:
        self._sock.close()


def _reply(frame: Frame, request_id: str, sent_ns: int, received_ns: int) -> Reply:
    if frame.type == FrameType.ERROR:
        code, message = decode_error(frame.payload)
        if frame.session == CONNECTION:
            raise ValueError(message)
        return _failed(request_id, f"{code.name.lower()}: {message}", sent_ns)
    reply = decode_final(frame.payload, request_id)
    there = Span("ipc", sent_ns, reply.started_ns)
    back = Span("reply", reply.finished_ns, received_ns)
    return replace(reply, spans=(there, *reply.spans, back), started_ns=sent_ns, finished_ns=received_ns)


def _failed(request_id: str, error: str, sent_ns: int) -> Reply:
    return Reply(request_id, None, (), sent_ns, now_ns(), error=error)
