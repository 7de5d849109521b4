"""Whole recordings over the wire: a client that looks like a service, for the closed and open loops.

Each calling thread has a connection of its own, kept between requests. This client's work on a request
is accounted beside the server's: ``ipc`` while it sends, ``reply`` while it reads the answer. What lies
between the two is in no span, but for the client's wait for a core, which is ``queue``.
"""

from __future__ import annotations

import itertools
import select
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
from harness.spans import CoreWait, Span, now_ns

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
            answer = self._connection().ask(request.payload)
            return _reply(answer, request.request_id, sent_ns)
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


class _Answer(NamedTuple):
    """The frame that ended a session; when all of the recording was sent, when the answer was noticed, and
    how much of the wait for it the client could have run but had no core."""

    frame: Frame
    sent_ns: int
    found_ns: int
    core_wait_ns: int


class _Connection:
    """A persistent connection that asks one recording at a time, for the thread that makes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(Limits())
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._sessions = itertools.count(1)
        self._core_wait = CoreWait()

    @property
    def over(self) -> bool:
        """Whether the server has something to say though nothing was asked: that it hangs up."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def ask(self, payload: bytes) -> _Answer:
        """With the frame that ends the session. Raises ``OSError``, ``EOFError`` or ``ValueError``."""
        session = next(self._sessions)
        view = memoryview(payload)
        self._sock.sendall(encode_open(session, _OPENING))
        starts = range(0, len(view), _PIECE_BYTES)
        for sequence, start in enumerate(starts, 1):
            self._send_piece(session, sequence, view[start : start + _PIECE_BYTES])
        self._sock.sendall(encode(FrameType.COMMIT, session, len(starts) + 1))
        sent_ns, waited_ns = now_ns(), self._core_wait.read_ns()
        frame, found_ns = self._end_of(session)
        return _Answer(frame, sent_ns, found_ns, self._core_wait.read_ns() - waited_ns)

    def _send_piece(self, session: int, sequence: int, piece: memoryview) -> None:
        header = encode_header(FrameType.AUDIO, session, sequence, len(piece))
        sent = self._sock.sendmsg([header, piece])  # not joined: that would copy the piece
        if sent < len(header):
            self._sock.sendall(header[sent:])
            sent = len(header)
        self._sock.sendall(piece[sent - len(header) :])

    def _end_of(self, session: int) -> tuple[Frame, int]:
        while True:
            target = self._reader.target(self._scratch)
            received = self._sock.recv_into(target)
            found_ns = now_ns()
            if not received:
                raise EOFError("it was closed before the answer")
            for frame in self._reader.feed(target, received):
                over = frame.type in (FrameType.FINAL, FrameType.ERROR)
                if over and frame.session in (session, CONNECTION):
                    return frame, found_ns
            if self._reader.error is not None:
                raise ValueError(str(self._reader.error))

    def close(self) -> None:
        self._sock.close()
        self._core_wait.close()


def _reply(answer: _Answer, request_id: str, asked_ns: int) -> Reply:
    frame = answer.frame
    if frame.type == FrameType.ERROR:
        code, message = decode_error(frame.payload)
        if frame.session == CONNECTION:
            raise ValueError(message)
        return _failed(request_id, f"{code.name.lower()}: {message}", asked_ns)
    reply = decode_final(frame.payload, request_id)
    return both_sides(reply, asked_ns, answer.sent_ns, answer.found_ns, answer.core_wait_ns)


def both_sides(reply: Reply, asked_ns: int, sent_ns: int, found_ns: int, core_wait_ns: int) -> Reply:
    """The server's ``reply`` with the client's part in it: sending until ``sent_ns``, waiting for a core
    before the answer was noticed at ``found_ns``, and reading it until now."""
    read_ns = now_ns()
    spans = _sending(asked_ns, sent_ns, reply.spans)
    woken_ns = max(spans[-1].end_ns, found_ns - core_wait_ns)
    waiting = Span("queue", min(woken_ns, found_ns), found_ns)
    reading = Span("reply", found_ns, read_ns)
    return replace(reply, spans=(*spans, waiting, reading), started_ns=asked_ns, finished_ns=read_ns)


def _sending(asked_ns: int, sent_ns: int, spans: Sequence[Span]) -> Sequence[Span]:
    """The client's sending, and of the server's ``spans`` what comes after it. The server receives while
    the client sends, which its first span says: that is the same ``ipc``."""
    receives = bool(spans) and spans[0].name == "ipc"
    until_ns = min(sent_ns, spans[0].end_ns) if receives else sent_ns
    after = (span._replace(start_ns=max(span.start_ns, until_ns)) for span in spans if span.end_ns > until_ns)
    return (Span("ipc", asked_ns, until_ns), *after)


def _failed(request_id: str, error: str, sent_ns: int) -> Reply:
    return Reply(request_id, None, (), sent_ns, now_ns(), error=error)
