"""RIFF/WAVE without a library: its sizes are checked here, its plain samples are read here.

PCM of 8 to 64 bits, floats, A-law and mu-law (ITU-T G.711), with or without WAVE_FORMAT_EXTENSIBLE, in
RIFF, RIFX and RF64. Other codecs in a WAV are a decoder's affair, after their sizes were checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.audio.completeness import TOLERANCE_S, truncated
from harness.errors import RequestError

_KINDS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_EXTENSIBLE = 0xFFFE
_PLAIN_GUID = bytes.fromhex("000000001000800000aa00389b71")  # what follows the tag of a subformat
_UNKNOWN_BYTES = 0x7FF0_0000  # streaming writers leave 0 or about 2 or 4 GiB
_PCM, _FLOAT, _ALAW, _MULAW = 1, 3, 6, 7
_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Wav:
    """A WAV's format and its samples, still as they lie in the payload."""

    order: str
    """``<`` or ``>``, as ``struct`` and NumPy write it."""
    tag: int
    channels: int
    sample_rate: int
    frame_bytes: int
    bits: int
    data: memoryview

    @property
    def plain(self) -> bool:
        """Whether ``blocks`` can read it."""
        widths = {_PCM: (8, 16, 24, 32, 64), _FLOAT: (32, 64), _ALAW: (8,), _MULAW: (8,)}
        known = self.bits in widths.get(self.tag, ())
        return known and self.frame_bytes == self.channels * self.bits // 8 > 0

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples, ``[channels, n]``, as one of the types that ``pcm.joined`` takes."""
        step = _BLOCK * self.frame_bytes
        whole = len(self.data) - len(self.data) % self.frame_bytes
        for start in range(0, whole, step):
            values = self._values(self.data[start : min(start + step, whole)])
            yield values.reshape(-1, self.channels).T

    def _values(self, raw: memoryview) -> np.ndarray:
        if self.tag in (_ALAW, _MULAW):
            return _g711(self.tag)[np.frombuffer(raw, np.uint8)]
        if self.bits == 24:
            return self._widened(np.frombuffer(raw, np.uint8).reshape(-1, 3))
        kind = "f" if self.tag == _FLOAT else "u" if self.bits == 8 else "i"
        return np.frombuffer(raw, f"{self.order}{kind}{self.bits // 8}")

    def _widened(self, triples: np.ndarray) -> np.ndarray:
        """24 bits as the upper ones of 32."""
        wide = np.zeros((len(triples), 4), np.uint8)
        wide[:, slice(1, 4) if self.order == "<" else slice(0, 3)] = triples
        return wide.view(f"{self.order}i4")[:, 0]


def parse(payload: bytes) -> Wav | None:
    """The WAV that ``payload`` is, None where it is none.

    Raises ``RequestError`` where a chunk claims more than there is: a library would make room for it.
    """
    if payload[:4] not in _KINDS or payload[8:12] != b"WAVE":
        return None
    order = ">" if payload[:4] == b"RIFX" else "<"
    offset, long_size, form = 12, None, b""
    while offset + 8 <= len(payload):
        name, size = struct.unpack_from(f"{order}4sI", payload, offset)
        offset += 8
        if name == b"data":
            return _with_data(order, form, payload, offset, _known(size) if long_size is None else long_size)
        if size > len(payload) - offset:
            raise truncated(
                f"its {name.decode('ascii', 'replace')} chunk declares {size} bytes, "
                f"{len(payload) - offset} are present"
            )
        if name == b"fmt ":
            form = payload[offset : offset + size]
        elif name == b"ds64" and size >= 16:
            long_size = struct.unpack_from("<Q", payload, offset + 8)[0]
        offset += size + size % 2  # chunks are padded to even sizes
    raise _unreadable("a WAV without a data chunk")


def _with_data(order: str, form: bytes, payload: bytes, offset: int, size: int | None) -> Wav:
    if len(form) < 14:
        raise _unreadable("a WAV without its format before its data")
    tag, channels, sample_rate, rate_bytes, frame_bytes = struct.unpack_from(f"{order}HHIIH", form)
    bits = struct.unpack_from(f"{order}H", form, 14)[0] if len(form) >= 16 else 8
    if tag == _EXTENSIBLE and form[26:40] == _PLAIN_GUID:
        tag = struct.unpack_from(f"{order}H", form, 24)[0]
    present = len(payload) - offset
    rounding = int(TOLERANCE_S * min(rate_bytes, 8 * channels * sample_rate))
    if size is not None and size > present + rounding:
        raise truncated(f"its data chunk declares {size} bytes, {present} are present")
    data = memoryview(payload)[offset:][:size]
    return Wav(order, tag, channels, sample_rate, frame_bytes, bits, data)


def _known(size: int) -> int | None:
    return size if 0 < size < _UNKNOWN_BYTES else None


def _unreadable(what: str) -> RequestError:
    return RequestError(f"the payload is not a readable recording ({what}): export it again")


def _g711(tag: int) -> np.ndarray:
    """The 256 values of a companding law, int16."""
    code = np.arange(256, dtype=np.int32) ^ (0x55 if tag == _ALAW else 0xFF)
    segment, step = code >> 4 & 7, code & 15
    if tag == _ALAW:
        size = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
        return np.where(code & 0x80, size, -size).astype(np.int16)
    size = (((step << 3) + 0x84) << segment) - 0x84
    return np.where(code & 0x80, -size, size).astype(np.int16)
