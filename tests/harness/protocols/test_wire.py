"""The protocol: what is written is what is read, whatever the pieces, and nothing else is accepted."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.protocols import Reply, Transcript
from harness.protocols.wire import (
    HEADER,
    HEADER_BYTES,
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
    SessionError,
    decode_error,
    decode_final,
    decode_open,
    decode_samples,
    encode,
    encode_error,
    encode_final,
    encode_open,
)
from harness.spans import SPAN_NAMES, Span

SMALL = Limits(max_frame_bytes=200_000)
Plain = tuple[int, int, int, bytes]


def read(
    pieces: Sequence[bytes], limits: Limits = SMALL, scratch_bytes: int = 64
) -> tuple[list[Plain], FrameReader]:
    """Everything a reader makes of a byte stream that arrives in ``pieces``, as a socket would give it."""
    reader, scratch = FrameReader(limits), memoryview(bytearray(scratch_bytes))
    frames: list[Plain] = []
    for piece in pieces:
        rest = piece
        while rest:
            target = reader.target(scratch)
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            for frame in reader.feed(target, count):
                frames.append((frame.type, frame.session, frame.sequence, bytes(frame.payload)))
            rest = rest[count:]
    return frames, reader


def cut(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


frames = st.tuples(
    st.sampled_from(list(FrameType)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=300),
)


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 10_000), max_size=12), st.integers(1, 500))
def test_frames_arrive_as_they_were_sent_however_they_are_cut(
    sent: list[tuple[FrameType, int, int, bytes]], cuts: list[int], scratch_bytes: int
) -> None:
    stream = b"".join(encode(*frame) for frame in sent)
    got, reader = read(cut(stream, cuts), scratch_bytes=scratch_bytes)
    assert got == [tuple(frame) for frame in sent]
    assert reader.error is None
    assert not reader.mid_frame


@given(
    st.binary(max_size=400),
    st.lists(st.integers(0, 400), max_size=5),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_what_a_reader_makes_of_garbage_does_not_depend_on_the_cuts(
    garbage: bytes, cuts: list[int], others: list[int]
) -> None:
    first, one = read(cut(garbage, cuts))
    second, other = read(cut(garbage, others), scratch_bytes=7)
    assert first == second
    assert str(one.error) == str(other.error)


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0, 5000), st.integers(0, 255))
@settings(max_examples=200)
def test_one_flipped_byte_never_raises_and_frames_before_it_survive(
    sent: list[tuple[FrameType, int, int, bytes]], where: int, value: int
) -> None:
    whole = [encode(*frame) for frame in sent]
    stream = bytearray(b"".join(whole))
    where %= len(stream)
    stream[where] = value
    got, reader = read([bytes(stream)])
    untouched = next(i for i in range(len(whole)) if sum(map(len, whole[: i + 1])) > where)
    assert got[:untouched] == [tuple(frame) for frame in sent[:untouched]]
    assert reader.error is None or reader.error.code < ErrorCode.BAD_SESSION


def header(magic: bytes = MAGIC, version: int = VERSION, kind: int = 2, length: int = 0) -> bytes:
    return HEADER.pack(magic, version, kind, 1, 1, length)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (header(magic=b"GE"), ErrorCode.BAD_MAGIC),
        (header(version=VERSION + 1), ErrorCode.BAD_VERSION),
        (header(kind=0), ErrorCode.BAD_TYPE),
        (header(kind=8), ErrorCode.BAD_TYPE),
        (header(length=200_001), ErrorCode.FRAME_TOO_LARGE),
        (header(length=2**32 - 1), ErrorCode.FRAME_TOO_LARGE),
    ],
)
def test_a_header_is_refused_before_its_payload_is_awaited(bad: bytes, code: ErrorCode) -> None:
    good = encode(FrameType.COMMIT, 3, 4)
    for pieces in ([good + bad], [good, bad], [good + bad[:5], bad[5:]]):
        got, reader = read([*pieces, good])
        assert got == [(FrameType.COMMIT, 3, 4, b"")]
        assert reader.error is not None
        assert reader.error.code == code


def test_the_header_is_sixteen_bytes_little_endian() -> None:
    assert HEADER_BYTES == 16
    raw = encode(FrameType.AUDIO, 0x01020304, 5, b"xyz")
    assert raw == b"SP" + bytes([VERSION, 2]) + struct.pack("<III", 0x01020304, 5, 3) + b"xyz"


def test_a_small_frame_is_a_view_of_the_receive_buffer() -> None:
    reader, scratch = FrameReader(SMALL), memoryview(bytearray(1024))
    raw = encode(FrameType.AUDIO, 1, 1, b"payload")
    scratch[: len(raw)] = raw
    (frame,) = reader.feed(scratch, len(raw))
    assert frame.payload.obj is scratch.obj


def test_most_of_a_large_frame_is_received_where_it_stays() -> None:
    reader, scratch = FrameReader(SMALL), memoryview(bytearray(4096))
    raw = encode(FrameType.AUDIO, 1, 1, bytes(range(256)) * 512)
    scratch[:] = raw[:4096]
    assert not reader.feed(scratch, 4096)
    target = reader.target(scratch)
    assert len(target) == len(raw) - 4096
    target[:] = raw[4096:]
    (frame,) = reader.feed(target, len(target))
    assert bytes(frame.payload) == raw[16:]
    assert frame.payload.obj is target.obj
    assert reader.target(scratch).obj is scratch.obj


# ---------------------------------------------------------------- payloads


def frame_of(raw: bytes) -> Frame:
    _, _, kind, session, sequence, _ = HEADER.unpack_from(raw)
    return Frame(kind, session, sequence, memoryview(raw)[HEADER_BYTES:])


@pytest.mark.parametrize(
    "request_",
    [
        Open(Mode.RECORDING),
        Open(Mode.STREAM, Encoding.S16LE, 10, 16_000),
        Open(Mode.STREAM, Encoding.F32LE, 0, 8000),
    ],
)
def test_open_survives_the_wire(request_: Open) -> None:
    assert decode_open(frame_of(encode_open(7, request_))) == request_


@given(st.binary(max_size=20))
def test_any_other_open_is_refused(payload: bytes) -> None:
    try:
        request = decode_open(Frame(FrameType.OPEN, 7, 0, memoryview(payload)))
    except SessionError as error:
        assert (error.code, error.session) == (ErrorCode.BAD_PAYLOAD, 7)
    else:
        assert (request.mode is Mode.STREAM) == (request.encoding is not Encoding.CONTAINER)


names = st.sampled_from(SPAN_NAMES)
times = st.integers(0, 2**62)


@given(
    st.text(max_size=300),
    st.lists(st.builds(Span, names, times, times), max_size=30),
    times,
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_a_reply_survives_the_wire(
    text: str, spans: list[Span], at_ns: int, segments: int, batch: int
) -> None:
    transcript = Transcript(text.encode(errors="ignore").decode())
    counts = {"segments": segments, "batch_id": batch, "batch_size": batch + 1}
    reply = Reply("a", transcript, tuple(spans), at_ns, at_ns + 1, speech_s=1.5, **counts)
    assert decode_final(frame_of(encode_final(1, 2, reply)).payload, "a") == reply


@given(st.binary(max_size=200))
def test_a_final_that_is_not_one_is_a_value_error(payload: bytes) -> None:
    try:
        decode_final(memoryview(payload))
    except ValueError:
        return
    assert len(payload) >= 44


@given(st.text(max_size=2000))
def test_an_error_message_is_cut_at_a_character(message: str) -> None:
    message = message.encode(errors="ignore").decode()
    code, told = decode_error(frame_of(encode_error(1, ErrorCode.BUSY, message)).payload)
    assert code is ErrorCode.BUSY
    assert message.startswith(told)
    assert "�" not in told or "�" in message


def test_samples_are_exact() -> None:
    pcm = np.array([-32768, -1, 0, 1, 32767], "<i2")
    assert np.array_equal(decode_samples(memoryview(pcm.tobytes()), Encoding.S16LE), pcm / 32768)
    floats = np.array([-1.0, 0.25, 1.0], "<f4")
    assert np.array_equal(decode_samples(memoryview(floats.tobytes()), Encoding.F32LE), floats)
