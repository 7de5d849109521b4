"""FLAC's header and its last frame (RFC 9639, sections 8 and 9), without decoding."""

from __future__ import annotations

import struct

from harness.audio.promise import Promise, Unsuited

MAGIC = b"fLaC"
_MAX_BITS = 24  # what float32 holds
_LARGEST_FRAME = 2**24
_MOST_BLOCKS, _MOST_SYNCS = 1024, 4096  # which no encoder writes, and no chance makes of a frame
_LAST_CHARACTER = 0x10FFFF
_BLOCKS = (0, 192, *(576 << n for n in range(4)), 0, 0, *(256 << n for n in range(8)))
_SYNC = b"\xff\xf8"  # of frames of one block size, which are numbered


def promise(payload: bytes) -> Promise:
    """Raises ``Unsuited`` where the header is incomplete or the last frame is not the one that it implies."""
    _check_metadata(payload)
    shortest, longest, _, largest = struct.unpack(">HH3s3s", payload[8:18])
    fields = int.from_bytes(payload[18:26], "big")
    rate, channels, bits, samples = fields >> 44, fields >> 41 & 7, fields >> 36 & 31, fields & (1 << 36) - 1
    if samples == 0:
        raise Unsuited("flac: its header states no length")
    if bits + 1 > _MAX_BITS:
        raise Unsuited("flac: more bits a sample than float32 holds")
    if shortest != longest or longest == 0:
        raise Unsuited("flac: blocks of several lengths")
    if payload.rfind(MAGIC) > 0:  # several times as fast as find
        raise Unsuited("flac: several recordings in one")
    _check_last_frame(payload, samples, longest, int.from_bytes(largest, "big"))
    return Promise(channels + 1, rate, samples)


def _check_metadata(payload: bytes) -> None:
    """The first block is STREAMINFO, and the last one ends within the payload."""
    if payload[4:8] not in (b"\0\0\0\x22", b"\x80\0\0\x22"):
        raise Unsuited("flac: no STREAMINFO")
    offset = 4
    for _ in range(_MOST_BLOCKS):
        if offset + 4 > len(payload):
            break
        last = payload[offset] >= 0x80
        offset += 4 + int.from_bytes(payload[offset + 1 : offset + 4], "big")
        if last and offset <= len(payload):
            return
    raise Unsuited("flac: metadata without an end")


def _check_last_frame(payload: bytes, samples: int, block: int, largest: int) -> None:
    """The frame that ``samples`` end with lies no farther from the end than the ``largest`` one is long."""
    number, rest = divmod(samples - 1, block)
    if number > _LAST_CHARACTER:
        raise Unsuited("flac: days of sound")
    coded = chr(number).encode("utf-8", "surrogatepass")  # as section 9.1.5 has it
    start = max(0, len(payload) - (largest or _LARGEST_FRAME))
    for _ in range(_MOST_SYNCS):
        start = payload.find(_SYNC, start) + 2
        header = payload[start : start + 4 + len(coded)]
        if start < 2 or not header:
            break
        if header.startswith(coded, 2) and _frame_samples(header, 2 + len(coded)) == rest + 1:
            return
    raise Unsuited("flac: it does not end with the frame that its header implies")


def _frame_samples(header: bytes, number_end: int) -> int:
    """What four bits after the sync code say; two of their values, that it is said after the number."""
    code = header[0] >> 4
    if code in (6, 7):
        return int.from_bytes(header[number_end : number_end + code - 5], "big") + 1
    return _BLOCKS[code]
