"""Did the whole recording arrive? Decoders hide most truncations; containers often tell.

What is knowable, and used here:

- RIFF/WAVE: the data chunk states its size in bytes; streaming writers leave 0 or about 2 or 4 GiB.
- Ogg: every page states its size (RFC 3533, section 6). A missing end-of-stream flag is no error:
  RFC 7845, section 4, asks readers to accept live captures without it.
- MP3: the first frame of most files counts the others ("Xing" or "Info"). Without it, the stream just ends.
- FLAC, MP4, Matroska: a length in the header. Live WebM states none and just ends.
- ADTS: nothing, but a cut frame fails to decode.
"""

from __future__ import annotations

import struct

#: Decoded audio may be this much shorter than declared: containers round to a millisecond and count
#: the encoder's delay (Opus 6.5 ms, AAC up to 48 ms), which decoding removes.
TOLERANCE_S = 0.05

_UNKNOWN_RIFF_BYTES = 0x7FF0_0000
_XING_SEARCH_BYTES = 256


def what_is_missing(payload: bytes, container: str, declared_s: float | None, decoded_s: float) -> str | None:
    """What the container promises and ``payload`` lacks, in words; None where nothing is known to lack.

    ``container`` is FFmpeg's demuxer name, ``declared_s`` the length it reports.
    """
    if container == "wav":
        return _missing_from_riff(payload)
    if container == "ogg":
        return _missing_from_ogg(payload)
    if declared_s is None or container == "aac" or (container == "mp3" and not _counts_its_frames(payload)):
        return None
    if decoded_s < declared_s - TOLERANCE_S:
        return f"its header declares {declared_s:.2f} s of audio, {decoded_s:.2f} s are present"
    return None


def _missing_from_riff(payload: bytes) -> str | None:
    offset = 12
    while offset + 8 <= len(payload):
        chunk, size = struct.unpack_from("<4sI", payload, offset)
        offset += 8
        if chunk == b"data":
            present = len(payload) - offset
            known = 0 < size < _UNKNOWN_RIFF_BYTES
            return (
                f"its data chunk declares {size} bytes, {present} are present"
                if known and size > present
                else None
            )
        offset += size + size % 2  # chunks are padded to even sizes
    return None


def _missing_from_ogg(payload: bytes) -> str | None:
    start = payload.rfind(b"OggS\0")
    header_end = start + 27
    if start < 0:
        return None
    if header_end > len(payload):
        return "its last Ogg page ends within its header"
    lacing_end = header_end + payload[start + 26]
    page_end = lacing_end + sum(payload[header_end:lacing_end])
    if page_end > len(payload):
        return f"its last Ogg page lacks {page_end - len(payload)} bytes"
    return None


def _counts_its_frames(payload: bytes) -> bool:
    """Whether the first MPEG frame, after a leading ID3v2 tag, carries a frame count."""
    start = 0
    if payload[:3] == b"ID3" and len(payload) >= 10:
        size = payload[6:10]  # four times seven bits
        start = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    head = payload[start : start + _XING_SEARCH_BYTES]
    return b"Xing" in head or b"Info" in head
