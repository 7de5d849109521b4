"""The frames of an MP3, one by one, without decoding: ISO 11172-3 and 13818-3, layer III.

The first frame of most files holds no sound but counts the others ("Xing", or "Info" where they are of one
size) and, behind that, says what the encoder put before and after the sound (LAME's tag).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.audio.promise import Promise, Unsuited

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MONO = 0xC0  # of a frame's fourth byte
#: By samples of a frame and channels: bits before the granules' description, of each, and how many a channel.
_SIDE_BITS = {(1152, 1): (18, 59, 2), (1152, 2): (20, 59, 2), (576, 1): (9, 63, 1), (576, 2): (10, 63, 1)}
_MOST_PAIRS = 288  # of coefficients
_AT_A_TIME = 2048  # frames: their bits take half a megabyte
COUNT_SEARCH_BYTES = 256
"""Of the first frame: side information, count, table of places, LAME's tag."""
_COUNTED = re.compile(
    rb"(?:Xing|Info)\0\0\0([\x01\x03\x05\x07\x09\x0b\x0d\x0f])(....)", re.DOTALL
)  # flags, of which the first is that of the frames' count; the count
_ENCODERS = (b"LAME", b"Lavc", b"Lavf")  # whose delay and padding FFmpeg removes
_COUNTERS = (b"Xing", b"Info", b"VBRI", *_ENCODERS)
_DECODER_DELAY = 529


@dataclass(frozen=True, slots=True)
class Header:
    """What the frames of a recording have in common."""

    sample_rate: int
    frame_samples: int
    frame_bytes: tuple[int, ...]
    """By a frame's third byte; 0 where it is none of this recording's."""


def header(first: bytes) -> Header | None:
    """Of the frame that begins with ``first``; None where none does, or it does not state its size."""
    if len(first) < 4 or first[0] != 0xFF or first[1] & 0xE6 != 0xE2:
        return None
    return _header(first[1] >> 3 & 3, first[2] >> 2 & 3)


@cache
def _header(version: int, rate: int) -> Header | None:
    if version == 1 or rate == 3:
        return None
    sample_rate, samples = _RATES[version][rate], 1152 if version == 3 else 576
    kbits = _KBITS[3 if version == 3 else 2]
    sizes = tuple(
        kbits[third >> 4] * 125 * samples // sample_rate + (third >> 1 & 1)
        if third >> 2 & 3 == rate and kbits[third >> 4]
        else 0
        for third in range(256)
    )
    return Header(sample_rate, samples, sizes)


def sound_start(payload: bytes) -> int:
    """Where a leading ID3v2 tag ends, whose size is four times seven bits."""
    if not payload.startswith(b"ID3") or len(payload) < 10:
        return 0
    sizes = zip(payload[6:10], (21, 14, 7, 0), strict=True)
    footer = 10 if payload[5] & 0x10 else 0
    return 10 + footer + sum((byte & 0x7F) << shift for byte, shift in sizes)


def counted_frames(frame: bytes) -> int | None:
    """How many frames follow the first one, as that counts them; None without a count."""
    found = _COUNTED.search(frame)
    return int.from_bytes(found[2], "big") if found else None


def promise(payload: bytes) -> Promise:
    """Raises ``Unsuited`` where anything but whole frames of one kind lies between the tags."""
    start = sound_start(payload)
    end = len(payload) - (128 if payload[-128:-125] == b"TAG" else 0)
    first = payload[start : start + COUNT_SEARCH_BYTES]
    kind = header(first)
    if kind is None:
        raise Unsuited("mp3: no frame where sound should begin")
    channels = 1 if first[3] >= _MONO else 2
    frames = 0
    for some in _walk(payload, start, end, kind.frame_bytes):
        _check_granules(payload, some, channels, kind)
        frames += len(some)
    samples = frames * kind.frame_samples - _silence(first, frames, kind)
    if samples <= 0:
        raise Unsuited("mp3: nothing but delay and padding")
    return Promise(channels, kind.sample_rate, samples)


def _walk(payload: bytes, offset: int, end: int, sizes: tuple[int, ...]) -> Iterator[list[int]]:
    """Where frames begin that follow each other from ``offset`` to ``end``, some at a time."""
    second, mono = payload[offset + 1], payload[offset + 3] >= _MONO
    frames: list[int] = []
    while offset + 4 <= end:
        size = sizes[payload[offset + 2]]
        if payload[offset] != 0xFF or payload[offset + 1] != second or not size:
            raise Unsuited("mp3: something else between its frames")
        if (payload[offset + 3] >= _MONO) != mono:
            raise Unsuited("mp3: its channels change")
        frames.append(offset)
        offset += size
        if len(frames) == _AT_A_TIME:
            yield frames
            frames = []
    if offset != end:
        raise Unsuited("mp3: it ends within a frame")
    if frames:
        yield frames


def _check_granules(payload: bytes, frames: Sequence[int], channels: int, kind: Header) -> None:
    """What a frame says of its spectra is possible: libmpg123 mutes those of which it is not."""
    protected = 0 if payload[frames[0] + 1] & 1 else 2
    head, granule, granules = _SIDE_BITS[kind.frame_samples, channels]
    size = -(-(head + granule * granules * channels) // 8)
    where = np.array(frames)[:, None] + 4 + protected + np.arange(size)
    if where[-1, -1] >= len(payload):
        raise Unsuited("mp3: its last frame lacks its description")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8)[where], axis=1)[:, head:]
    each = bits[:, : granule * granules * channels].reshape(-1, granule)
    pairs = each[:, 12:21] @ (1 << np.arange(8, -1, -1))
    switched = each[:, 33 if granules == 2 else 38 :][:, :3]  # to windows of a type, which is not 0
    if pairs.max() > _MOST_PAIRS or (switched[:, 0] > switched[:, 1] | switched[:, 2]).any():
        raise Unsuited("mp3: frames whose description is damaged")


def _silence(first: bytes, frames: int, kind: Header) -> int:
    """Samples that are no sound: those of a frame that counts, an encoder's delay and its padding."""
    found = _COUNTED.search(first)
    if found is None:
        if any(name in first for name in _COUNTERS):
            raise Unsuited("mp3: a first frame that does not count the others")
        return 0
    if int.from_bytes(found[2], "big") != frames - 1:
        raise Unsuited("mp3: it does not hold as many frames as it counts")
    flags = found[1][0]
    tag = found.end() + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if first[tag : tag + 4] not in _ENCODERS:
        raise Unsuited("mp3: its encoder does not state its delay")
    both = int.from_bytes(first[tag + 21 : tag + 24], "big")
    delay, padding = both >> 12, both & 0xFFF
    return kind.frame_samples + delay + max(padding, _DECODER_DELAY)
