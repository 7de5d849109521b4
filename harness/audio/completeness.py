"""Did the whole recording arrive? Decoders hide most truncations; containers often tell.

What is knowable, and used here and where WAVs are read:

- RIFF/WAVE: the data chunk states its size in bytes; streaming writers leave 0 or about 2 or 4 GiB.
- Ogg: every page states its size (RFC 3533, section 6). A missing end-of-stream flag is no error:
  RFC 7845, section 4, asks readers to accept live captures without it.
- MP3: the first frame of most files counts the others ("Xing" or "Info"). Without it, the stream just ends.
- FLAC, MP4, Matroska: a length in the header, to be compared with the time of the last sample, since
  recordings pause and start late. Live WebM states none and just ends; beside pictures, Matroska's length
  is not the sound's, but its segment states its size (RFC 8794, section 6).
- ADTS: nothing, but a cut frame fails to decode.
"""

from __future__ import annotations

import re

from harness.audio import mp3
from harness.errors import RequestError

#: Audio may end this much before what is declared: containers round to a millisecond and count
#: the encoder's delay (Opus 6.5 ms, AAC up to 48 ms), which decoding removes.
TOLERANCE_S = 0.05

_TAGS = re.compile(rb"ID3[\x02-\x04]|TAG|APETAGEX|LYRICSBEGIN")
_SEGMENT = b"\x18\x53\x80\x67"


def truncated(reason: str) -> RequestError:
    return RequestError(f"the recording is truncated or damaged: {reason}; send it whole")


def what_is_missing(payload: bytes, container: str, declared_end_s: float | None, end_s: float) -> str | None:
    """What the container promises and ``payload`` lacks, in words; None where nothing is known to lack.

    ``container`` is FFmpeg's demuxer name; ``declared_end_s`` is where its header says that the sound
    ends, ``end_s`` where its last sample does, both on the clock of its timestamps.
    """
    if container == "ogg":
        return _missing_from_ogg(payload)
    if container.startswith("matroska") and declared_end_s is None:
        return _missing_from_segment(payload)
    if container == "mp3":  # FFmpeg guesses where recordings were joined
        declared_end_s = min(declared_end_s or 0.0, _counted_s(payload) or 0.0)
    if declared_end_s is None or container == "aac":
        return None
    if end_s < declared_end_s - TOLERANCE_S:
        return f"its header declares sound until {declared_end_s:.2f} s, it ends at {end_s:.2f} s"
    return None


def is_tag(packet: bytes) -> bool:
    """Whether ``packet`` begins with a tag, as between joined MP3s: at most one frame is lost with it."""
    return _TAGS.match(packet) is not None


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


def _missing_from_segment(payload: bytes) -> str | None:
    """Matroska's segment follows the EBML header; its size is an integer of one to eight bytes."""
    start = payload[:4096].find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(payload):
        return None
    width = 9 - payload[start].bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(payload[start : start + width], "big") & unknown
    lacking = start + width + size - len(payload)
    return f"its segment lacks {lacking} bytes" if size != unknown and lacking > 0 else None


def _counted_s(payload: bytes) -> float | None:
    """Length of what an MP3's first frame counts; None without a count."""
    frame = payload[mp3.sound_start(payload) :][: mp3.COUNT_SEARCH_BYTES]
    kind, count = mp3.header(frame), mp3.counted_frames(frame)
    return None if kind is None or count is None else count * kind.frame_samples / kind.sample_rate
