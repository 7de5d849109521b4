"""Ogg's pages, one by one, without decoding (RFC 3533, section 6), and Vorbis's first packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.audio.promise import Promise, Unsuited

MAGIC = b"OggS\0"
_FIRST = 2  # of a page's flags: a stream begins
_VORBIS, _VORBIS_BYTES = b"\x01vorbis", 30
_HEADER = struct.Struct("<4sBBqIIIB")
_NO_PACKET_ENDS = -1
_MOST_CHANNELS = 2  # FFmpeg puts more of them in another order


@dataclass(frozen=True, slots=True)
class Page:
    flags: int
    position: int
    """Samples of the stream until its last packet's end."""
    stream: int
    number: int
    start: int
    """Of its body in the payload."""


def promise(payload: bytes) -> Promise | None:
    """None for any other codec than Vorbis in one channel or two.

    Raises ``Unsuited`` where pages are missing, cut, or of several streams, or time does not begin at zero.
    """
    pages = _pages(payload)
    first = next(pages)
    if not payload.startswith(_VORBIS, first.start):
        return None
    if len(payload) < first.start + _VORBIS_BYTES:
        raise Unsuited("ogg: it ends within its header")
    channels, rate = struct.unpack_from("<BI", payload, first.start + 11)
    if channels > _MOST_CHANNELS:
        return None
    samples = number = 0
    for number, page in enumerate(pages, 1):
        if page.flags & _FIRST or page.stream != first.stream:
            raise Unsuited("ogg: several streams")
        if page.number != first.number + number:
            raise Unsuited("ogg: pages are missing")
        if page.position != _NO_PACKET_ENDS:
            if page.position < samples:
                raise Unsuited("ogg: its time runs backwards")
            samples = page.position
    return Promise(channels, rate, samples)


def _pages(payload: bytes) -> Iterator[Page]:
    offset = 0
    while offset < len(payload):
        body = offset + _HEADER.size
        if body > len(payload) or not payload.startswith(MAGIC, offset):
            raise Unsuited("ogg: something else between its pages")
        _, _, flags, position, stream, number, _, segments = _HEADER.unpack_from(payload, offset)
        body += segments
        offset = body + sum(payload[body - segments : body])
        if offset > len(payload):
            raise Unsuited("ogg: it ends within a page")
        yield Page(flags, position, stream, number, body)
