"""Clients for the servers' tests: well-behaved ones, and ten thousand that are not."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.protocols.sockets import Address, connect
from harness.protocols.wire import (
    HEADER,
    MAGIC,
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
    encode,
    encode_open,
)

#: Each way of serving connections: its choice on the io axis, and the options that make it.
SERVERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "epoll": ("epoll", {}),
    "threads": ("threads", {}),
    "uvloop": ("asyncio_loop", {"loop": "uvloop"}),
    "asyncio": ("asyncio_loop", {"loop": "asyncio"}),
}
STREAM = Open(Mode.STREAM, Encoding.S16LE, 1, 16_000)
RECORDING = Open(Mode.RECORDING)


class Peer:
    """A client that sends what it is told and reads frames with a deadline."""

    def __init__(self, address: Address, timeout_s: float = 10.0) -> None:
        self.sock = connect(address, timeout_s)
        self._reader = FrameReader(Limits())
        self._scratch = memoryview(bytearray(1 << 16))
        self._frames: list[Frame] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        self.sock.sendall(b"".join(pieces))

    def receive(self) -> Frame | None:
        """The next frame, or None at the end. Raises ``TimeoutError``."""
        while not self._frames:
            target = self._reader.target(self._scratch)
            try:
                received = self.sock.recv_into(target)
            except ConnectionResetError:
                return None
            if not received:
                return None
            self._frames = [
                frame._replace(payload=memoryview(bytes(frame.payload)))
                for frame in self._reader.feed(target, received)
            ]
        return self._frames.pop(0)

    def until(self, kind: FrameType) -> Frame:
        while (frame := self.receive()) is not None:
            if frame.type == kind:
                return frame
        raise AssertionError(f"the connection ended before {kind.name}")

    def error(self) -> ErrorCode:
        return decode_error(self.until(FrameType.ERROR).payload)[0]

    def closed(self) -> bool:
        """Read to the end; True when the server ended the connection."""
        with contextlib.suppress(TimeoutError):
            while self.receive() is not None:
                pass
            return True
        return False


def stream(session: int, *chunks: bytes) -> bytes:
    """A whole live stream: open, audio, commit."""
    audio = [encode(FrameType.AUDIO, session, k, chunk) for k, chunk in enumerate(chunks, 1)]
    return b"".join(
        [encode_open(session, STREAM), *audio, encode(FrameType.COMMIT, session, len(chunks) + 1)]
    )


def recording(session: int, *pieces: bytes) -> bytes:
    audio = [encode(FrameType.AUDIO, session, k, piece) for k, piece in enumerate(pieces, 1)]
    commit = encode(FrameType.COMMIT, session, len(pieces) + 1)
    return b"".join([encode_open(session, RECORDING), *audio, commit])


# ---------------------------------------------------------------- hostile ones


@dataclass(frozen=True)
class Attack:
    """Bytes to send, and what to do then: ``end`` the input, ``wait``, ``dribble`` or ``vanish``."""

    kind: str
    data: bytes
    then: str = "end"


def attacks(count: int, seed: int, max_frame_bytes: int) -> Iterator[Attack]:
    """A reproducible mix of malformed and hostile streams."""
    rng = random.Random(seed)
    makers = [
        _garbage,
        _fuzzed_header,
        _fuzzed_stream,
        _truncated_audio,
        _oversize,
        _oversize_session,
        _slow_loris,
        _dribble,
        _half_closed,
        _duplicate_session,
        _out_of_order,
        _unknown_session,
        _session_flood,
        _server_frames,
        _vanish,
        _odd_audio,
    ]
    # Slow ones hold a connection until the server's timeout: rarer, so that the test ends.
    weights = [1 if maker in (_slow_loris, _dribble) else 6 for maker in makers]
    for maker in rng.choices(makers, weights, k=count):
        yield maker(rng, max_frame_bytes)


def _garbage(rng: random.Random, _limit: int) -> Attack:
    return Attack("garbage", rng.randbytes(rng.randint(1, 4000)))


def _fuzzed_header(rng: random.Random, _limit: int) -> Attack:
    raw = bytearray(encode_open(1, STREAM) + encode(FrameType.AUDIO, 1, 1, rng.randbytes(64)))
    for _ in range(rng.randint(1, 4)):
        raw[rng.randrange(16)] = rng.randrange(256)
    return Attack("fuzzed header", bytes(raw))


def _fuzzed_stream(rng: random.Random, _limit: int) -> Attack:
    raw = bytearray(stream(rng.randint(1, 9), *(rng.randbytes(320) for _ in range(rng.randint(1, 6)))))
    for _ in range(rng.randint(1, 8)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return Attack("fuzzed stream", bytes(raw))


def _truncated_audio(rng: random.Random, limit: int) -> Attack:
    length = rng.randint(1000, limit)
    head = HEADER.pack(MAGIC, VERSION, FrameType.AUDIO, 1, 1, length)
    return Attack("truncated audio", encode_open(1, RECORDING) + head + rng.randbytes(rng.randint(0, 999)))


def _oversize(rng: random.Random, limit: int) -> Attack:
    head = HEADER.pack(MAGIC, VERSION, FrameType.AUDIO, 1, 1, rng.randint(limit + 1, 2**32 - 1))
    return Attack("oversize length", encode_open(1, STREAM) + head + rng.randbytes(100))


def _oversize_session(rng: random.Random, limit: int) -> Attack:
    return Attack("oversize session", recording(1, *([rng.randbytes(1000) * (limit // 1000)] * 5)))


def _slow_loris(rng: random.Random, _limit: int) -> Attack:
    raw = stream(1, rng.randbytes(640))
    return Attack("slow loris", raw[: rng.randint(1, len(raw) - 20)], then="wait")


def _dribble(rng: random.Random, limit: int) -> Attack:
    head = HEADER.pack(MAGIC, VERSION, FrameType.AUDIO, 1, 1, limit)
    return Attack("dribble", encode_open(1, STREAM) + head + rng.randbytes(10), then="dribble")


def _half_closed(rng: random.Random, _limit: int) -> Attack:
    return Attack("half-closed", encode_open(1, rng.choice([STREAM, RECORDING])))


def _duplicate_session(rng: random.Random, _limit: int) -> Attack:
    return Attack(
        "duplicate session", encode_open(5, STREAM) + encode_open(5, rng.choice([STREAM, RECORDING]))
    )


def _out_of_order(rng: random.Random, _limit: int) -> Attack:
    chunk = rng.randbytes(320)
    wrong = rng.choice([0, 1, 3, 2**32 - 1])
    audio = encode(FrameType.AUDIO, 1, 1, chunk) + encode(FrameType.AUDIO, 1, wrong, chunk)
    return Attack("out of order", encode_open(1, STREAM) + audio)


def _unknown_session(rng: random.Random, _limit: int) -> Attack:
    kind = rng.choice([FrameType.AUDIO, FrameType.COMMIT, FrameType.CLOSE, FrameType.ERROR])
    return Attack("unknown session", encode(kind, rng.randint(0, 2**32 - 1), rng.randint(0, 9)))


def _session_flood(_rng: random.Random, _limit: int) -> Attack:
    return Attack("session flood", b"".join(encode_open(n, STREAM) for n in range(1, 60)))


def _server_frames(rng: random.Random, _limit: int) -> Attack:
    kind = rng.choice([FrameType.PARTIAL, FrameType.FINAL])
    return Attack("server's frames", encode_open(1, STREAM) + encode(kind, 1, 1, rng.randbytes(50)))


def _vanish(rng: random.Random, _limit: int) -> Attack:
    raw = stream(1, *(rng.randbytes(320) for _ in range(5)))
    return Attack("vanish", raw[: rng.randint(1, len(raw))], then="vanish")


def _odd_audio(rng: random.Random, _limit: int) -> Attack:
    return Attack("odd audio", stream(1, rng.randbytes(321)))


def carry_out(attack: Attack, address: Address, deadline_s: float) -> str:
    """What came of it: ``error`` or ``closed``; ``unanswered`` when the server did neither in time."""
    with Peer(address, timeout_s=deadline_s) as peer:
        try:
            peer.send(attack.data)
            if attack.then == "vanish":
                return "closed"
            if attack.then == "end":
                peer.sock.shutdown(socket.SHUT_WR)
            elif attack.then == "dribble":
                _dribble_bytes(peer, deadline_s)
            return _outcome(peer)
        except (BrokenPipeError, ConnectionResetError):
            return "closed"
        except TimeoutError:
            return "unanswered"


def _dribble_bytes(peer: Peer, deadline_s: float) -> None:
    """One byte now and then, so that the connection is never silent."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        peer.send(b"\0")
        time.sleep(0.02)
    raise TimeoutError


def _outcome(peer: Peer) -> str:
    while (frame := peer.receive()) is not None:
        if frame.type == FrameType.ERROR:
            return "error"
    return "closed"
