"""The protocol between clients and the server under test, and its incremental parser.

A connection (Unix domain socket or TCP) is persistent and carries frames in both directions. A
frame is a header of 16 bytes, little-endian, and ``length`` bytes of payload:

    offset  size  field
    0       2     magic, the bytes ``SP``
    2       1     version, 2
    3       1     type, one of ``FrameType``
    4       4     session, chosen by the client and unique among the connection's open sessions;
                  0 means the connection itself
    8       4     sequence
    12      4     length of the payload in bytes

A session is one recording or one live stream:

    client                      server
    OPEN     sequence 0                                    mode, encoding, acknowledgement interval, rate
    AUDIO    sequence 1, 2, …                              a piece of the container, or samples
                                PARTIAL  sequence k        audio up to frame k was taken; text so far
    COMMIT   the next number                               end of the recording or of speech
                                FINAL    COMMIT's number   text and the server's spans; the session is over
    CLOSE    any                                           the client gives up; the session is over
                                ERROR    any               code and message; the session is over

A live stream is acknowledged by PARTIAL every ``ack_every`` AUDIO frames and whenever its text
changes; acknowledgements are cumulative, and an empty PARTIAL says that the text is as before.
ERROR with session 0 says why the server closes the connection; CLOSE with session 0 says that
it will take no further session (it drains). Numbers out of order are an error, so that a lost or
repeated frame cannot pass unnoticed.

Sizes are bounded by ``Limits``: a header is checked before its payload is awaited, and memory for
a payload is committed only as its bytes arrive, so a header that lies about its length costs
nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.protocols import Reply, Transcript
from harness.spans import SPAN_NAMES, Span

MAGIC = b"SP"
VERSION = 2
HEADER = struct.Struct("<2sBBIII")
HEADER_BYTES = HEADER.size
CONNECTION = 0
"""The session number that stands for the connection itself."""

_OPEN = struct.Struct("<BBHI")
_ERROR = struct.Struct("<H")
_FINAL = struct.Struct("<IIIdqqII")
_SPAN = struct.Struct("<Bqq")
_MAX_MESSAGE_BYTES = 512
# Made once: thousands of chunks a second pass through here, and each name would be parsed anew.
_S16LE, _F32LE = np.dtype("<i2"), np.dtype("<f4")
_S16_STEP = np.float32(1 / 32768)
_SPAN_INDEX = {name: index for index, name in enumerate(SPAN_NAMES)}


class FrameType(IntEnum):
    """What a frame says. ``PARTIAL`` and ``FINAL`` come from the server alone."""

    OPEN = 1
    AUDIO = 2
    COMMIT = 3
    PARTIAL = 4
    FINAL = 5
    ERROR = 6
    CLOSE = 7


_LAST_TYPE = int(FrameType.CLOSE)


class ErrorCode(IntEnum):
    """Why the server refused something. Codes below 20 end the connection, the others a session."""

    BAD_MAGIC = 1
    BAD_VERSION = 2
    BAD_TYPE = 3
    FRAME_TOO_LARGE = 4
    IDLE = 5
    SLOW_PEER = 6
    TRUNCATED = 7
    TOO_MANY_CONNECTIONS = 8
    BAD_SESSION = 20
    DUPLICATE_SESSION = 21
    TOO_MANY_SESSIONS = 22
    SESSION_TOO_LARGE = 23
    OUT_OF_ORDER = 24
    BAD_PAYLOAD = 25
    FAILED = 26
    BUSY = 27
    UNAVAILABLE = 28
    DRAINING = 29
    INTERNAL = 30


class Mode(IntEnum):
    """What a session carries: one recording's container bytes, or a live stream of samples."""

    RECORDING = 1
    STREAM = 2


class Encoding(IntEnum):
    """How AUDIO payloads are to be read. Samples are mono."""

    CONTAINER = 1
    S16LE = 2
    F32LE = 3


SAMPLE_BYTES = {Encoding.S16LE: 2, Encoding.F32LE: 4}
_STREAM_ENCODINGS = frozenset(SAMPLE_BYTES)


class WireError(HarnessError):
    """The peer broke the protocol; ``code`` goes back to it in an ERROR frame."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class FramingError(WireError):
    """The byte stream can no longer be cut into frames: the connection has to end."""


class SessionError(WireError):
    """One session broke its rules; the others of the connection go on."""

    def __init__(self, session: int, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.session = session


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may ask for. ``max_session_bytes`` bounds the audio of a recording or stream."""

    max_frame_bytes: int = 1 << 20
    max_session_bytes: int = 256 << 20
    max_sessions: int = 16


class Frame(NamedTuple):
    """One frame. ``payload`` may lie in the receiver's buffer: copy what has to outlive the handler."""

    type: int
    session: int
    sequence: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Open:
    """The payload of OPEN. ``ack_every`` 0 asks for PARTIAL only when the text changes."""

    mode: Mode
    encoding: Encoding = Encoding.CONTAINER
    ack_every: int = 0
    sample_rate: int = 0


# ---------------------------------------------------------------- writing


def encode(kind: FrameType, session: int, sequence: int = 0, payload: bytes | memoryview = b"") -> bytes:
    """Header and payload in one ``bytes``, ready for one ``send``."""
    return HEADER.pack(MAGIC, VERSION, kind, session, sequence, len(payload)) + payload


def encode_header(kind: FrameType, session: int, sequence: int, length: int) -> bytes:
    """The header alone, for a sender that hands header and payload to ``sendmsg``."""
    return HEADER.pack(MAGIC, VERSION, kind, session, sequence, length)


def encode_open(session: int, request: Open) -> bytes:
    payload = _OPEN.pack(request.mode, request.encoding, request.ack_every, request.sample_rate)
    return encode(FrameType.OPEN, session, 0, payload)


def encode_error(session: int, code: ErrorCode, message: str, sequence: int = 0) -> bytes:
    """ERROR; a long message is cut at a character so that the payload stays valid UTF-8."""
    text = message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore").encode()
    return encode(FrameType.ERROR, session, sequence, _ERROR.pack(code) + text)


def encode_final(session: int, sequence: int, reply: Reply) -> bytes:
    """FINAL of a request that succeeded: its text, its spans and when the server worked on it."""
    text = (reply.transcript.text if reply.transcript else "").encode()
    head = _FINAL.pack(
        *(len(text), reply.segments, len(reply.spans), reply.speech_s),
        *(reply.started_ns, reply.finished_ns, reply.batch_id, reply.batch_size),
    )
    spans = b"".join(_SPAN.pack(_SPAN_INDEX[s.name], s.start_ns, s.end_ns) for s in reply.spans)
    return encode(FrameType.FINAL, session, sequence, head + text + spans)


# ---------------------------------------------------------------- reading


def decode_open(frame: Frame) -> Open:
    """The payload of OPEN. Raises ``SessionError`` for anything that the table does not allow."""
    if len(frame.payload) != _OPEN.size:
        raise _bad_payload(frame, f"OPEN has {len(frame.payload)} bytes of payload, not {_OPEN.size}")
    mode, encoding, ack_every, sample_rate = _OPEN.unpack(frame.payload)
    try:
        request = Open(Mode(mode), Encoding(encoding), ack_every, sample_rate)
    except ValueError as error:
        raise _bad_payload(frame, f"OPEN: {error}") from None
    if (request.encoding in _STREAM_ENCODINGS) != (request.mode is Mode.STREAM):
        raise _bad_payload(frame, "OPEN: recordings are containers, streams are samples")
    return request


def decode_samples(payload: memoryview, encoding: Encoding) -> np.ndarray:
    """Samples of a stream's AUDIO payload: float32 ``[n]`` in [-1, 1], a copy.

    Raises ``ValueError`` when the payload ends inside a sample.
    """
    if encoding is Encoding.S16LE:
        return np.frombuffer(payload, _S16LE) * _S16_STEP
    return np.frombuffer(payload, _F32LE).astype(np.float32)


def decode_error(payload: memoryview) -> tuple[ErrorCode, str]:
    """Code and message of ERROR. Raises ``ValueError`` for a payload that is not one."""
    if len(payload) < _ERROR.size:
        raise ValueError(f"ERROR has {len(payload)} bytes of payload; it needs {_ERROR.size}")
    (code,) = _ERROR.unpack_from(payload)
    return ErrorCode(code), bytes(payload[_ERROR.size :]).decode(errors="replace")


def decode_final(payload: memoryview, request_id: str = "") -> Reply:
    """The reply that ``encode_final`` wrote. Raises ``ValueError`` for a payload that is not one."""
    if len(payload) < _FINAL.size:
        raise ValueError(f"FINAL has {len(payload)} bytes of payload; it needs {_FINAL.size}")
    head = _FINAL.unpack_from(payload)
    text_bytes, segments, span_count, speech_s, started_ns, finished_ns, batch_id, batch_size = head
    if len(payload) != _FINAL.size + text_bytes + span_count * _SPAN.size:
        raise ValueError(f"FINAL announces {text_bytes} bytes of text and {span_count} spans: wrong length")
    text_end = _FINAL.size + text_bytes
    text = bytes(payload[_FINAL.size : text_end]).decode()
    return Reply(
        request_id=request_id,
        transcript=Transcript(text),
        spans=_decode_spans(payload[text_end:]),
        started_ns=started_ns,
        finished_ns=finished_ns,
        segments=segments,
        speech_s=speech_s,
        batch_id=batch_id,
        batch_size=batch_size,
    )


def _decode_spans(payload: memoryview) -> tuple[Span, ...]:
    records = list(_SPAN.iter_unpack(payload))
    if any(index >= len(SPAN_NAMES) for index, _, _ in records):
        raise ValueError("FINAL names an unknown span")
    return tuple(Span(SPAN_NAMES[index], start_ns, end_ns) for index, start_ns, end_ns in records)


def _bad_payload(frame: Frame, message: str) -> SessionError:
    return SessionError(frame.session, ErrorCode.BAD_PAYLOAD, message)


class FrameReader:
    """Cuts a byte stream into frames, whatever the pieces it arrives in.

    Give ``target(scratch)`` to ``recv_into`` and what arrived to ``feed``. A frame that lies whole
    in the scratch buffer is handed out as a view of it; one that does not is assembled once, in a
    buffer of its own, and while much of it is missing that buffer itself is the target: a large
    payload is received where it stays. One scratch buffer serves every connection of a thread.
    """

    __slots__ = ("_assembly", "_filled", "_head", "_limits", "_pending", "error")

    _DIRECT_BYTES = 32 << 10
    """Below this, a read into the scratch buffer may bring several frames and costs less."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._head = b""  # part of a header
        self._pending: tuple[int, int, int] | None = None  # header of the frame under assembly
        self._assembly = memoryview(b"")
        self._filled = 0
        self.error: FramingError | None = None
        """Set when the stream cannot be cut any further; frames before that point were handed out."""

    @property
    def mid_frame(self) -> bool:
        """Whether the peer owes the rest of a frame: what distinguishes slow from idle."""
        return bool(self._head) or self._pending is not None

    def target(self, scratch: memoryview) -> memoryview:
        """Where the next bytes should be received: ``scratch``, or a large frame's own buffer."""
        if self._pending is not None and len(self._assembly) - self._filled >= self._DIRECT_BYTES:
            return self._assembly[self._filled :]
        return scratch

    def feed(self, target: memoryview, received: int) -> Sequence[Frame]:
        """Frames completed by ``received`` bytes in ``target`` (what ``target()`` returned).

        Payloads are valid until ``target`` is written again. After an error nothing more is read.
        """
        if self.error is not None:
            return ()
        if self._pending is not None and target.obj is self._assembly.obj:
            self._filled += received
            return self._completed()
        if not self._head and self._pending is None:
            return self._cut(target[:received], 0, [])
        return self._resume(target[:received])

    def _resume(self, data: memoryview) -> Sequence[Frame]:
        """Finish the header or the payload that an earlier read left incomplete, then go on."""
        position = 0
        if self._head:
            position = min(HEADER_BYTES - len(self._head), len(data))
            self._head += data[:position]
            if len(self._head) < HEADER_BYTES or not self._begin(self._head):
                return ()
            self._head = b""
        taken = min(len(self._assembly) - self._filled, len(data) - position)
        self._assembly[self._filled : self._filled + taken] = data[position : position + taken]
        self._filled += taken
        frames = self._completed()
        return self._cut(data, position + taken, frames) if frames else frames

    def _cut(self, data: memoryview, position: int, frames: list[Frame]) -> list[Frame]:
        """Hand out whole frames of ``data`` as views and keep the incomplete rest."""
        unpack, limit, end = HEADER.unpack_from, self._limits.max_frame_bytes, len(data)
        while position + HEADER_BYTES <= end:
            magic, version, kind, session, sequence, length = unpack(data, position)
            if magic != MAGIC or version != VERSION or not 1 <= kind <= _LAST_TYPE or length > limit:
                self.error = self._diagnose(magic, version, kind, length)
                return frames
            start = position + HEADER_BYTES
            if start + length > end:
                self._assemble(kind, session, sequence, length, data[start:])
                return frames
            position = start + length
            frames.append(Frame(kind, session, sequence, data[start:position]))
        self._head = bytes(data[position:])
        return frames

    def _begin(self, header: bytes) -> bool:
        """Start assembling the frame that ``header`` announces; False when it is not acceptable."""
        magic, version, kind, session, sequence, length = HEADER.unpack(header)
        self.error = self._diagnose(magic, version, kind, length)
        if self.error is None:
            self._assemble(kind, session, sequence, length, memoryview(b""))
        return self.error is None

    def _assemble(self, kind: int, session: int, sequence: int, length: int, first: memoryview) -> None:
        # np.empty leaves large buffers untouched, so pages are committed as bytes arrive.
        self._pending = (kind, session, sequence)
        self._assembly = np.empty(length, np.uint8).data
        self._assembly[: len(first)] = first
        self._filled = len(first)

    def _completed(self) -> list[Frame]:
        if self._pending is None or self._filled < len(self._assembly):
            return []
        frame = Frame(*self._pending, self._assembly)
        self._pending, self._assembly, self._filled = None, memoryview(b""), 0
        return [frame]

    def _diagnose(self, magic: bytes, version: int, kind: int, length: int) -> FramingError | None:
        if magic != MAGIC:
            return FramingError(ErrorCode.BAD_MAGIC, f"a frame begins with {magic!r}, not {MAGIC!r}")
        if version != VERSION:
            return FramingError(ErrorCode.BAD_VERSION, f"version {version}; this server speaks {VERSION}")
        if not 1 <= kind <= FrameType.CLOSE:
            return FramingError(ErrorCode.BAD_TYPE, f"unknown frame type {kind}")
        if length > self._limits.max_frame_bytes:
            limit = self._limits.max_frame_bytes
            return FramingError(ErrorCode.FRAME_TOO_LARGE, f"a frame of {length} bytes; the limit is {limit}")
        return None
