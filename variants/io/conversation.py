"""The protocol's state on the server's side of one connection, without a socket.

Every server feeds it frames and completions and sends what it leaves in ``out``; they differ only
in who waits. It runs in one thread at a time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from harness.protocols import Reply, Request
from harness.protocols.wire import (
    CONNECTION,
    SAMPLE_BYTES,
    Encoding,
    ErrorCode,
    Frame,
    FrameType,
    FramingError,
    Limits,
    Mode,
    SessionError,
    WireError,
    decode_open,
    decode_samples,
    encode,
    encode_error,
    encode_final,
)
from harness.spans import Span, core_wait_ns, now_ns
from variants.io.types import Budget, IoOptions, Traffic
from variants.serving.streams import NO_FREE_SLOT
from variants.topology.types import (
    AbandonStream,
    Backend,
    Busy,
    CommitStream,
    Completion,
    Done,
    Job,
    OpenStream,
    PushAudio,
    Transcribe,
)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the connections of one server have in common."""

    backend: Backend
    limits: Limits
    sample_rate: int
    budget: Budget
    max_jobs: int
    stream_ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    abandoned: deque[int] = field(default_factory=deque)

    @classmethod
    def of(cls, backend: Backend, options: IoOptions) -> Shared:
        return cls(
            backend=backend,
            limits=options.limits,
            sample_rate=options.sample_rate,
            budget=Budget(options.max_buffered_bytes),
            max_jobs=options.max_jobs,
        )

    def abandon(self, stream_id: int) -> None:
        """Forget a stream; offered again by ``retry`` while the backend is busy."""
        self.abandoned.append(stream_id)
        self.retry()

    def retry(self) -> None:
        """Hand streams that nobody wants any more to the backend, as far as it has room."""
        while self.abandoned:
            stream_id = self.abandoned.popleft()
            try:
                self.backend.submit(AbandonStream(stream_id), _ignore)
            except Busy:
                self.abandoned.append(stream_id)
                return
            except Exception:  # a backend that is down has forgotten its streams already
                return


def _ignore(_completion: Completion) -> None:
    pass


class Session:
    """One recording or stream; completions find their way back through it (``Job.token``)."""

    __slots__ = (
        "ack_every",
        "acknowledged",
        "bytes_taken",
        "committed",
        "conversation",
        "core_wait_ns",
        "encoding",
        "number",
        "opened_ns",
        "over",
        "parts",
        "received_ns",
        "sequence",
        "stream_id",
    )

    def __init__(self, conversation: Conversation, number: int) -> None:
        self.conversation = conversation
        self.number = number
        self.encoding = Encoding.CONTAINER
        self.stream_id = 0  # 0: a recording
        self.ack_every = 0
        self.acknowledged = 0
        self.sequence = 0
        self.bytes_taken = 0
        self.parts: list[bytes] = []
        self.opened_ns = now_ns()
        self.core_wait_ns = 0
        self.received_ns = 0
        self.committed = False
        self.over = False


class Conversation:
    """One client's sessions. ``done`` receives the backend's completions, from any thread."""

    __slots__ = (
        "_done",
        "_held",
        "_shared",
        "_waited_ns",
        "draining",
        "ending",
        "out",
        "owner",
        "pending",
        "sessions",
        "traffic",
    )

    def __init__(self, shared: Shared, done: Done, owner: Any = None) -> None:
        self._shared = shared
        self._done = done
        self._held = 0  # bytes of recordings, of those in the backend too
        self.owner = owner
        """Whoever moves this conversation's bytes."""
        self.sessions: dict[int, Session] = {}
        self.out: list[bytes] = []
        self.pending = 0
        """Jobs that the backend has not completed."""
        self.draining = False
        self.ending = False
        """Set by a fatal error: send what is in ``out`` and close."""
        self.traffic = Traffic()
        self._waited_ns: int | None = None
        """For cores, by the thread of this conversation until it last answered a recording."""

    # ------------------------------------------------------------ from the client

    def handle(self, frame: Frame) -> None:
        """Act on one frame. Raises ``Busy`` with nothing changed: hand the same frame in again later."""
        if self.ending:
            return
        try:
            _HANDLERS.get(frame.type, Conversation._unexpected)(self, frame)
        except SessionError as error:
            if error.session == CONNECTION:
                self.fail(error)
            else:
                self._fail_session(error.session, error.code, str(error), frame.sequence)
        self.traffic.frames_in += 1

    def fail(self, error: WireError) -> None:
        """The connection cannot go on: say why and end it."""
        self._error(CONNECTION, error.code, str(error), 0)
        self.ending = True

    def drain(self) -> None:
        """Take no further session; tell the client."""
        if not self.draining:
            self.draining = True
            self._send(encode(FrameType.CLOSE, CONNECTION))

    def abandon(self) -> None:
        """The client is gone: forget its sessions."""
        for session in list(self.sessions.values()):
            self._forget(session)

    def take_out(self) -> bytes:
        """All bytes that wait to be sent, which do not wait any more."""
        out = self.out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def end_of_input(self, mid_frame: bool) -> None:
        """The client sends no more, though it may still read: only committed sessions go on."""
        if mid_frame:
            self.fail(FramingError(ErrorCode.TRUNCATED, "the connection ended inside a frame"))
        for session in [session for session in self.sessions.values() if not session.committed]:
            self._fail_session(session.number, ErrorCode.TRUNCATED, "the connection ended before COMMIT", 0)

    @property
    def waiting_for_client(self) -> bool:
        """Whether nothing is to come unless the client sends more."""
        return self.pending == 0 and not any(session.committed for session in self.sessions.values())

    def _open(self, frame: Frame) -> None:
        request = decode_open(frame)
        session = self._admit(frame)
        session.encoding, session.ack_every = request.encoding, request.ack_every
        if request.mode is Mode.STREAM:
            rate = self._shared.sample_rate
            if request.sample_rate != rate:
                raise _bad(frame, f"streams are at {rate} Hz here, not {request.sample_rate}")
            session.stream_id = next(self._shared.stream_ids)
            self._submit(OpenStream(session.stream_id, (session, 0)))
            self.traffic.streams += 1
        else:
            waited_ns = core_wait_ns()
            session.core_wait_ns = 0 if self._waited_ns is None else waited_ns - self._waited_ns
            self.traffic.recordings += 1
        self.sessions[frame.session] = session

    def _admit(self, frame: Frame) -> Session:
        number = frame.session
        if number == CONNECTION:
            raise _bad(frame, "session 0 is the connection itself; choose another number")
        if number in self.sessions:
            raise SessionError(number, ErrorCode.DUPLICATE_SESSION, f"session {number} is open already")
        if self.draining:
            raise SessionError(number, ErrorCode.DRAINING, "the server is going down; connect again later")
        if len(self.sessions) >= self._shared.limits.max_sessions:
            limit = self._shared.limits.max_sessions
            raise SessionError(number, ErrorCode.TOO_MANY_SESSIONS, f"at most {limit} sessions a connection")
        if frame.sequence != 0:
            raise SessionError(number, ErrorCode.OUT_OF_ORDER, "OPEN has sequence 0")
        return Session(self, number)

    def _audio(self, frame: Frame) -> None:
        session = self._next_of(frame)
        size = len(frame.payload)
        if session.bytes_taken + size > self._shared.limits.max_session_bytes:
            limit = self._shared.limits.max_session_bytes
            raise SessionError(
                session.number, ErrorCode.SESSION_TOO_LARGE, f"a session has at most {limit} bytes"
            )
        if session.stream_id:
            if size % SAMPLE_BYTES[session.encoding]:
                raise _bad(frame, f"{size} bytes are not a whole number of samples")
            samples = decode_samples(frame.payload, session.encoding)
            self._submit(PushAudio(session.stream_id, samples, (session, frame.sequence)))
        else:
            if not self._shared.budget.take(size, self._held):
                raise SessionError(session.number, ErrorCode.BUSY, "the server holds as much audio as it may")
            self._held += size
            session.parts.append(bytes(frame.payload))
        session.bytes_taken += size
        session.sequence = frame.sequence

    def _commit(self, frame: Frame) -> None:
        session = self._next_of(frame)
        token = (session, frame.sequence)
        if session.stream_id:
            self._submit(CommitStream(session.stream_id, token))
        else:
            request = Request(str(session.number), b"".join(session.parts))
            session.parts = [request.payload]  # a retry after Busy does not copy again
            session.received_ns = session.received_ns or now_ns()
            self._submit(Transcribe(request, token))
        session.sequence = frame.sequence
        session.committed = True

    def _close(self, frame: Frame) -> None:
        if frame.session == CONNECTION:
            self.abandon()
            self.ending = True
            return
        session = self.sessions.get(frame.session)
        if session is None:
            raise SessionError(frame.session, ErrorCode.BAD_SESSION, f"session {frame.session} is not open")
        self._forget(session)

    def _peer_error(self, frame: Frame) -> None:
        """A client that reports an error gives the session up."""
        self._close(frame)

    def _unexpected(self, frame: Frame) -> None:
        raise _bad(frame, f"{FrameType(frame.type).name} comes from the server alone")

    def _next_of(self, frame: Frame) -> Session:
        session = self.sessions.get(frame.session)
        if session is None:
            raise SessionError(frame.session, ErrorCode.BAD_SESSION, f"session {frame.session} is not open")
        if session.committed or frame.sequence != session.sequence + 1:
            expected = "nothing after COMMIT" if session.committed else f"sequence {session.sequence + 1}"
            message = f"frame {frame.sequence} of session {frame.session}: expected {expected}"
            raise SessionError(frame.session, ErrorCode.OUT_OF_ORDER, message)
        return session

    # ------------------------------------------------------------ to and from the backend

    def _submit(self, job: Job) -> None:
        try:
            if self.pending >= self._shared.max_jobs:
                raise Busy
            self._shared.backend.submit(job, self._done)
        except Busy:
            self.traffic.busy += 1
            raise
        except Exception as error:  # a backend that is down must not take the connection with it
            session, _ = job.token
            raise SessionError(session.number, ErrorCode.UNAVAILABLE, f"cannot serve: {error}") from error
        self.pending += 1

    def complete(self, completion: Completion) -> None:
        """Turn one of this conversation's completions into an answer."""
        self.pending -= 1
        session: Session
        session, sequence = completion.job.token
        if not session.stream_id:
            self._give_back(session)
        if session.over:
            return
        if completion.error is not None:
            is_refused = completion.error.startswith(NO_FREE_SLOT)
            code = ErrorCode.BUSY if is_refused else ErrorCode.FAILED
            self._fail_session(session.number, code, completion.error, sequence)
        elif completion.reply is not None:
            self._send(encode_final(session.number, sequence, _as_served(session, completion.reply)))
            self._end(session)
            if not session.stream_id:
                self._waited_ns = core_wait_ns()
        elif completion.text is not None:
            session.acknowledged = sequence
            self._send(encode(FrameType.PARTIAL, session.number, sequence, completion.text.encode()))
        elif session.ack_every and sequence - session.acknowledged >= session.ack_every:
            session.acknowledged = sequence
            self._send(encode(FrameType.PARTIAL, session.number, sequence))

    def _fail_session(self, number: int, code: ErrorCode, message: str, sequence: int) -> None:
        self._error(number, code, message, sequence)
        if (session := self.sessions.get(number)) is not None:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._end(session)
        if session.stream_id:
            self._shared.abandon(session.stream_id)

    def _end(self, session: Session) -> None:
        session.over = True
        self.sessions.pop(session.number, None)
        session.parts = []
        if not (session.stream_id or session.committed):  # else the backend has its bytes still
            self._give_back(session)

    def _give_back(self, session: Session) -> None:
        self._shared.budget.give_back(session.bytes_taken)
        self._held -= session.bytes_taken
        session.bytes_taken = 0

    def _error(self, session: int, code: ErrorCode, message: str, sequence: int) -> None:
        self.traffic.errors[code.name.lower()] += 1
        self._send(encode_error(session, code, message, sequence))

    def _send(self, data: bytes) -> None:
        self.out.append(data)
        self.traffic.frames_out += 1


def _as_served(session: Session, reply: Reply) -> Reply:
    """The reply with this side's part in it: the recording's receipt, the wait for a core before it and
    for room in the backend after it, and the answer's for its turn to be sent."""
    if session.stream_id:
        return reply
    received = Span("ipc", session.opened_ns, session.received_ns)
    asleep = Span("queue", session.opened_ns - session.core_wait_ns, session.opened_ns)
    waited = Span("queue", session.received_ns, reply.started_ns)
    answered = Span("reply", reply.finished_ns, now_ns())
    return replace(reply, spans=(received, asleep, waited, *reply.spans, answered))


def _bad(frame: Frame, message: str) -> SessionError:
    return SessionError(frame.session, ErrorCode.BAD_PAYLOAD, message)


_HANDLERS: dict[int, Callable[[Conversation, Frame], None]] = {
    FrameType.OPEN: Conversation._open,
    FrameType.AUDIO: Conversation._audio,
    FrameType.COMMIT: Conversation._commit,
    FrameType.CLOSE: Conversation._close,
    FrameType.ERROR: Conversation._peer_error,
}
