"""The server under test, driven like any other service: whole recordings over persistent connections.

Each client thread has a connection of its own. The clock of a request starts before its first byte
is sent and ends when its answer has been read; what lies between the two sides' own spans is the
way there (``ipc``) and back (``reply``).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.protocols import Evidence, Reply, Request
from harness.sockets import connect
from harness.spans import Span, now_ns
from harness.wire import (
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
from harness.workload.serving import CollectorPause, ServerEvidence, ServerPlan, ServerProcess

_PIECE_BYTES = 256 << 10
_SCRATCH_BYTES = 64 << 10


class RemoteService:
    """``harness.protocols.Service`` in front of a server in a process of its own."""

    def __init__(self, plan: ServerPlan, start_timeout_s: float, request_timeout_s: float = 600.0) -> None:
        self._server = ServerProcess(plan, start_timeout_s)
        self._request_timeout_s = request_timeout_s
        self._local = threading.local()
        self._open: list[_Connection] = []
        self._ended: ServerEvidence | None = None

    def start(self) -> None:
        self._server.__enter__()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Nothing: the server warms itself up before it listens (``ServerPlan.warm_up_s``)."""

    def handle(self, request: Request) -> Reply:
        """Send one recording and wait for its final text. A broken connection fails the request."""
        sent_ns = now_ns()
        try:
            return self._connection().transcribe(request, sent_ns)
        except (OSError, HarnessError) as error:
            self._forget()
            return Reply(request.request_id, None, (), sent_ns, now_ns(), error=f"connection: {error}")

    @property
    def pid(self) -> int:
        """The serving process."""
        return self._server.pid

    def evidence(self) -> Evidence:
        """Drains and ends the server: what it did is known when it has done it."""
        return self._end().evidence

    def pauses(self) -> tuple[CollectorPause, ...]:
        """The collector's pauses in the serving process. Ends the server, as ``evidence`` does."""
        return self._end().pauses

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._server.__exit__(None, None, None)

    def _end(self) -> ServerEvidence:
        if self._ended is None:
            for connection in self._open:
                connection.close()
            self._ended = self._server.stop()
        return self._ended

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = _Connection(connect(self._server.address), self._request_timeout_s)
            self._local.connection = connection
            self._open.append(connection)
        return connection

    def _forget(self) -> None:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


@dataclass(frozen=True)
class _Answer:
    frame: Frame
    received_ns: int


class _Connection:
    """One persistent connection; sessions follow each other on it."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        sock.settimeout(timeout_s)
        self._sock = sock
        self._reader = FrameReader(Limits())
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._session = 0

    def transcribe(self, request: Request, sent_ns: int) -> Reply:
        self._session += 1
        self._send(request.payload)
        answer = self._answer()
        if answer.frame.type == FrameType.ERROR:
            code, message = decode_error(answer.frame.payload)
            return Reply(request.request_id, None, (), sent_ns, answer.received_ns, f"{code.name}: {message}")
        if answer.frame.type != FrameType.FINAL:
            raise HarnessError(f"the server answered a recording with {FrameType(answer.frame.type).name}")
        return _placed(decode_final(answer.frame.payload, request.request_id), sent_ns, answer.received_ns)

    def close(self) -> None:
        self._sock.close()

    def _send(self, payload: bytes) -> None:
        self._sock.sendall(encode_open(self._session, Open(Mode.RECORDING)))
        view, sequence = memoryview(payload), 0
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            sequence += 1
            self._sock.sendall(encode_header(FrameType.AUDIO, self._session, sequence, len(piece)))
            self._sock.sendall(piece)
        self._sock.sendall(encode(FrameType.COMMIT, self._session, sequence + 1))

    def _answer(self) -> _Answer:
        """The frame that ends the session; a CLOSE of the connection is an error of the request."""
        while True:
            target = self._reader.target(self._scratch)
            received = self._sock.recv_into(target)
            received_ns = now_ns()
            if received == 0:
                raise HarnessError("the server closed the connection")
            for frame in self._reader.feed(target, received):
                if frame.session in (0, self._session) and frame.type != FrameType.PARTIAL:
                    return _Answer(frame, received_ns)
            if self._reader.error is not None:
                raise self._reader.error


def _placed(reply: Reply, sent_ns: int, received_ns: int) -> Reply:
    """The server's reply on the client's clock: started when sent, finished when received."""
    way_there = Span("ipc", sent_ns, reply.started_ns)
    way_back = Span("reply", reply.finished_ns, received_ns)
    return Reply(
        request_id=reply.request_id,
        transcript=reply.transcript,
        spans=(way_there, *reply.spans, way_back),
        started_ns=sent_ns,
        finished_ns=received_ns,
        segments=reply.segments,
        speech_s=reply.speech_s,
    )
