"""One client process: hundreds or thousands of live streams on one epoll loop.

Every frame is encoded before the first one is due; while streams run, a chunk costs one ``send``
and an acknowledgement one ``recv``. Times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import gc
import heapq
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError
from harness.protocols.children import teller, when_closed
from harness.protocols.sockets import Address, connect, raise_open_files
from harness.protocols.wire import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    SAMPLE_BYTES,
    VERSION,
    Encoding,
    ErrorCode,
    Frame,
    FrameReader,
    FrameType,
    Limits,
    Mode,
    Open,
    decode_error,
    decode_final,
    encode,
    encode_open,
)
from harness.spans import now_ns

_SESSION = 1
_SCRATCH_BYTES = 64 << 10
_EVENTS_PER_WAKE_UP = 64
"""Few, so that reading what has come does not make the next chunk late."""
_SPARE_FILES = 64
_TELL_EVERY_S = 5.0
REFUSED = f"{ErrorCode.BUSY.name.lower()}: "
"""How the error of a stream begins that the server had no room for."""
INTERRUPTED = "the run was interrupted"
"""The error of a stream that was under way then."""


@dataclass(frozen=True)
class Script:
    """What one client process does. ``recordings`` are samples in the wire's encoding, ``[n]``.

    Connection ``i`` speaks ``recordings[assigned[i]]`` and begins ``offsets_s[i]`` after the start.
    """

    address: Address
    recordings: tuple[npt.NDArray[np.generic], ...]
    assigned: tuple[int, ...]
    offsets_s: tuple[float, ...]
    chunk_s: float
    sample_rate: int = 16_000
    encoding: Encoding = Encoding.S16LE
    ack_every: int = 1
    speed: float = 1.0
    """Times real time at which is spoken."""
    final_timeout_s: float = 10.0
    """How long after its end of speech a stream waits for its final text."""


def retracted_words(before: str, after: str) -> int:
    """Words of ``before`` that ``after`` takes back: all from the first that it does not go on from. A last
    word that only grows is not taken back."""
    if after.startswith(before):
        return 0
    words = before.split()
    kept = next(
        (n for n, (old, new) in enumerate(zip(words, after.split(), strict=False)) if old != new),
        min(len(words), len(after.split())),
    )
    return len(words) - kept


class Spoken(Protocol):
    """A live stream as its client knows it. Times on the monotonic clock; 0: it did not happen."""

    first_text_ns: int
    final_ns: int
    retracted: int
    text: str
    error: str


@dataclass(frozen=True)
class StreamRecords:
    """What the connections of one process saw. ``[C]`` connections, ``[C, K]`` their chunks.

    A chunk is scheduled when its last sample has been spoken. 0 means that it did not happen.
    """

    scheduled_ns: npt.NDArray[np.int64]  # [C, K]
    sent_ns: npt.NDArray[np.int64]  # [C, K], when the client got round to it
    acked_ns: npt.NDArray[np.int64]  # [C, K]
    first_text_ns: npt.NDArray[np.int64]  # [C]
    final_ns: npt.NDArray[np.int64]  # [C]
    retracted: npt.NDArray[np.int64]  # [C], words that were shown and taken back
    texts: tuple[str, ...]
    errors: tuple[str, ...]
    """Empty where a stream ended as it should."""
    refused_sends: int
    """Chunks that had to wait because the server did not read: back-pressure, not lag."""
    cpu_s: float

    @classmethod
    def of(
        cls,
        streams: Sequence[Spoken],
        chunks: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
        refused_sends: int,
        cpu_s: float,
    ) -> StreamRecords:
        """What ``streams`` saw; of their ``chunks`` when each was scheduled, sent and acknowledged."""
        return cls(
            *chunks,
            first_text_ns=np.array([stream.first_text_ns for stream in streams], np.int64),
            final_ns=np.array([stream.final_ns for stream in streams], np.int64),
            retracted=np.array([stream.retracted for stream in streams], np.int64),
            texts=tuple(stream.text for stream in streams),
            errors=tuple(stream.error for stream in streams),
            refused_sends=refused_sends,
            cpu_s=cpu_s,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A recording as frames: ``frames[k]`` carries chunk ``k``; its last sample is spoken at
    ``due_ns[k]`` from the stream's start."""

    frames: tuple[bytes, ...]
    due_ns: tuple[int, ...]


def prepare(recording: npt.NDArray[np.generic], script: Script) -> _Prepared:
    """Cut a recording into chunks and encode them. The last may be shorter."""
    chunk = max(1, round(script.chunk_s * script.sample_rate))
    kind = "<i2" if script.encoding is Encoding.S16LE else "<f4"
    if recording.dtype != np.dtype(kind):
        raise HarnessError(f"a recording of type {recording.dtype} cannot be sent as {script.encoding.name}")
    payload = memoryview(np.ascontiguousarray(recording).data).cast("B")
    size = SAMPLE_BYTES[script.encoding]
    starts = range(0, len(recording), chunk)
    frames = tuple(
        encode(FrameType.AUDIO, _SESSION, k, payload[start * size : (start + chunk) * size])
        for k, start in enumerate(starts, 1)
    )
    ends = (min(start + chunk, len(recording)) for start in starts)
    return _Prepared(frames, tuple(round(end / (script.sample_rate * script.speed) * 1e9) for end in ends))


class _Stream:
    """One connection with one live stream on it."""

    __slots__ = (
        "acked",
        "acked_ns",
        "error",
        "final_ns",
        "first_text_ns",
        "next",
        "over",
        "prepared",
        "reader",
        "retracted",
        "sent_ns",
        "shown",
        "sock",
        "start_ns",
        "text",
        "unsent",
    )

    def __init__(self, sock: socket.socket, prepared: _Prepared) -> None:
        self.sock = sock
        self.prepared = prepared
        self.reader = FrameReader(Limits())
        self.sent_ns = array("q", bytes(8 * len(prepared.frames)))
        self.acked_ns = array("q", bytes(8 * len(prepared.frames)))
        self.unsent: deque[memoryview] = deque()
        self.start_ns = 0
        self.next = 0  # the chunk to send next
        self.acked = 0  # how many are acknowledged
        self.first_text_ns = 0
        self.final_ns = 0
        self.shown = ""
        self.retracted = 0
        self.text = ""
        self.error = ""
        self.over = False


def run_client(script: Script, control: Connection) -> None:
    """The process's main: connect, report, wait for the start time, stream, send the records. A second word
    from the parent ends the streams where they are."""
    when_closed(control, lambda: None, grace_s=0.0)
    epoll = select.epoll()  # before thousands of sockets: select() takes low numbers alone
    try:
        streams = connect_all(script)
        control.send("connected")
        start_ns: int = control.recv()
        # The generator's own collections would look like lag; nothing here makes cycles.
        gc.freeze()
        gc.disable()
        control.send(StreamLoop(script, streams, epoll, control).run(start_ns))
    except OSError as error:
        raise HarnessError(f"a client process failed: {error}") from error


def connect_all(script: Script) -> list[_Stream]:
    """A connection for each stream, opened. Raises ``HarnessError`` where they do not fit."""
    raise_open_files(len(script.assigned) + _SPARE_FILES, f"{len(script.assigned)} client connections")
    prepared = [prepare(recording, script) for recording in script.recordings]
    opening = encode_open(_SESSION, Open(Mode.STREAM, script.encoding, script.ack_every, script.sample_rate))
    streams = []
    for index in script.assigned:
        sock = connect(script.address)
        stream = _Stream(sock, prepared[index])
        try:
            sock.sendall(opening)
        except OSError as error:  # turned away: this stream's row, not the run
            stream.error = f"the server closed the connection: {error.strerror}"
        sock.setblocking(False)
        streams.append(stream)
    return streams


class StreamLoop:
    """Sends what is due and reads what has come, until every stream has ended."""

    def __init__(
        self, script: Script, streams: Sequence[_Stream], epoll: select.epoll, parent: Connection
    ) -> None:
        self._script = script
        self._streams = streams
        self._epoll = epoll
        self._by_fd = {stream.sock.fileno(): stream for stream in streams}
        self._tell = teller(parent)
        self._tell_ns = 0
        for fd in (*self._by_fd, parent.fileno()):
            self._epoll.register(fd, select.EPOLLIN)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._open = len(streams)
        self._refused = 0
        self._commits = {
            id(stream.prepared): encode(FrameType.COMMIT, _SESSION, len(stream.prepared.frames) + 1)
            for stream in streams
        }

    def run(self, start_ns: int) -> StreamRecords:
        cpu_before = time.process_time()
        due = self._schedule(start_ns)
        deadline_ns = 0
        while self._open:
            if now_ns() >= self._tell_ns:
                self._tell_progress()
            self._send_due(due)
            if due:
                timeout_s = max(0.0, (due[0][0] - now_ns()) * 1e-9)
            else:
                deadline_ns = deadline_ns or now_ns() + int(self._script.final_timeout_s * 1e9)
                timeout_s = (deadline_ns - now_ns()) * 1e-9
                if timeout_s <= 0:
                    self._give_up(f"no final text within {self._script.final_timeout_s:g} s")
            for fd, event in self._wait(timeout_s):
                if (stream := self._by_fd.get(fd)) is not None:
                    self._ready(stream, event)
                else:
                    self._give_up(INTERRUPTED)
        return self._records(time.process_time() - cpu_before)

    def _tell_progress(self) -> None:
        self._tell_ns = now_ns() + round(_TELL_EVERY_S * 1e9)
        self._tell("chunks acknowledged", sum(stream.acked for stream in self._streams))

    def _wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """What is ready within ``timeout_s``. epoll would round it up to whole milliseconds, which
        would be the lag of every chunk; select, asked about the epoll itself, counts microseconds."""
        if timeout_s > 0:
            select.select((self._epoll,), (), (), timeout_s)
        return self._epoll.poll(0, _EVENTS_PER_WAKE_UP)

    def _schedule(self, start_ns: int) -> list[tuple[int, int]]:
        """A heap of (when its next chunk is due, stream)."""
        due = []
        for index, (stream, offset_s) in enumerate(zip(self._streams, self._script.offsets_s, strict=True)):
            stream.start_ns = start_ns + round(offset_s * 1e9)
            due.append((stream.start_ns + stream.prepared.due_ns[0], index))
        heapq.heapify(due)
        return due

    # ------------------------------------------------------------ sending

    def _send_due(self, due: list[tuple[int, int]]) -> None:
        streams = self._streams
        while due:
            now = now_ns()
            if due[0][0] > now:
                return
            index = due[0][1]
            stream = streams[index]
            if stream.over:
                heapq.heappop(due)
                continue
            k = stream.next
            stream.sent_ns[k] = now
            self._send(stream, stream.prepared.frames[k])
            stream.next = k = k + 1
            if k < len(stream.prepared.frames):
                heapq.heapreplace(due, (stream.start_ns + stream.prepared.due_ns[k], index))
            else:
                self._send(stream, self._commits[id(stream.prepared)])
                heapq.heappop(due)

    def _send(self, stream: _Stream, frame: bytes) -> None:
        if stream.unsent:
            stream.unsent.append(memoryview(frame))
            self._refused += 1
            return
        try:
            sent = stream.sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            # The server may have said why before it hung up: what it said is still to be read.
            stream.error = f"the connection broke: {error.strerror}"
            self._epoll.modify(stream.sock, select.EPOLLIN)
            return
        if sent < len(frame):
            self._refused += 1
            stream.unsent.append(memoryview(frame)[sent:])
            self._epoll.modify(stream.sock, select.EPOLLIN | select.EPOLLOUT)

    def _send_waiting(self, stream: _Stream) -> None:
        unsent = stream.unsent
        try:
            while unsent:
                rest = unsent[0][stream.sock.send(unsent[0]) :]
                if rest:
                    unsent[0] = rest
                else:
                    unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self._end(stream, f"the connection broke: {error}")
            return
        self._epoll.modify(stream.sock, select.EPOLLIN)

    # ------------------------------------------------------------ receiving

    def _ready(self, stream: _Stream, event: int) -> None:
        if event & select.EPOLLOUT and not stream.over:
            self._send_waiting(stream)
        if event & ~select.EPOLLOUT and not stream.over:
            self._read(stream)

    def _read(self, stream: _Stream) -> None:
        target = stream.reader.target(self._scratch)
        try:
            received = stream.sock.recv_into(target)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(stream, stream.error or f"the connection broke: {error}")
            return
        now = now_ns()
        if not received:
            self._end(stream, stream.error or "the server closed the connection before the final text")
            return
        if received == HEADER_BYTES and not stream.reader.mid_frame and self._acknowledged(stream, now):
            return
        try:
            for frame in stream.reader.feed(target, received):
                self._take(stream, frame, now)
        except ValueError as error:
            self._end(stream, f"the server broke the protocol: {error}")
        if stream.reader.error is not None:
            self._end(stream, f"the server broke the protocol: {stream.reader.error}")

    def _acknowledged(self, stream: _Stream, now: int) -> bool:
        """The common case at a fraction of the cost: one PARTIAL without text, alone in the buffer."""
        magic, version, kind, session, sequence, length = HEADER.unpack_from(self._scratch)
        k = stream.acked
        usual = sequence == k + 1 <= len(stream.acked_ns) and not length and session == _SESSION
        if not usual or kind != FrameType.PARTIAL or magic != MAGIC or version != VERSION:
            return False
        stream.acked_ns[k] = now
        stream.acked = sequence
        return True

    def _take(self, stream: _Stream, frame: Frame, now: int) -> None:
        if frame.type == FrameType.PARTIAL:
            last = min(frame.sequence, len(stream.acked_ns))
            for k in range(stream.acked, last):
                stream.acked_ns[k] = now
            stream.acked = max(stream.acked, last)
            if len(frame.payload):
                stream.first_text_ns = stream.first_text_ns or now
                self._show(stream, bytes(frame.payload).decode())
        elif frame.type == FrameType.FINAL:
            stream.final_ns = now
            transcript = decode_final(frame.payload).transcript
            stream.text = transcript.text if transcript else ""
            self._show(stream, stream.text)
            self._end(stream, "")
        elif frame.type == FrameType.ERROR:
            code, message = decode_error(frame.payload)
            self._end(stream, f"{code.name.lower()}: {message}")

    def _show(self, stream: _Stream, text: str) -> None:
        stream.retracted += retracted_words(stream.shown, text)
        stream.shown = text

    # ------------------------------------------------------------ the end

    def _end(self, stream: _Stream, error: str) -> None:
        if stream.over:
            return
        stream.over = True
        stream.error = error
        stream.unsent.clear()
        self._open -= 1
        stream.sock.close()

    def _give_up(self, why: str) -> None:
        for stream in self._streams:
            self._end(stream, why)

    def _records(self, cpu_s: float) -> StreamRecords:
        streams = self._streams
        width = max((len(stream.prepared.frames) for stream in streams), default=0)
        scheduled = np.zeros((len(streams), width), np.int64)
        sent, acked = np.zeros_like(scheduled), np.zeros_like(scheduled)
        for row, stream in enumerate(streams):
            count = len(stream.prepared.frames)
            scheduled[row, :count] = np.asarray(stream.prepared.due_ns, np.int64) + stream.start_ns
            sent[row, :count] = stream.sent_ns
            acked[row, :count] = stream.acked_ns
        return StreamRecords.of(streams, (scheduled, sent, acked), self._refused, cpu_s)
