"""Damage, seeded: random mutations of recordings in every format, and huge sizes all over their headers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from tests.harness.audio.recordings import VORBIS, Encoding, encode, noise

FORMATS = (
    Encoding("wav", "pcm_s16le", 16000),
    Encoding("wav", "pcm_f32le", 44100, "stereo"),
    Encoding("wav", "pcm_mulaw", 8000),
    Encoding("wav", "adpcm_ima_wav", 16000),
    Encoding("w64", "pcm_s16le", 16000),
    Encoding("aiff", "pcm_s16be", 16000),
    Encoding("caf", "pcm_s16be", 16000),
    Encoding("flac", "flac", 16000),
    Encoding("mp3", "libmp3lame", 16000),
    Encoding("adts", "aac", 16000),
    Encoding("ipod", "aac", 16000),
    Encoding("mp4", "aac", 44100, "stereo"),
    Encoding("mp4", "aac", 48000, muxing={"movflags": "frag_keyframe+empty_moov"}),
    Encoding("ipod", "aac", 48000, "7.1"),
    Encoding("webm", "libopus", 48000),
    Encoding("matroska", "pcm_s16le", 16000),
    Encoding("matroska", "vorbis", 44100, "stereo", options=VORBIS.options),
    Encoding("ogg", "libopus", 48000, "7.1"),
    VORBIS,
)
_HUGE = (0x7FFFFFFF, 0xFFFFFFFF, 0x10000000, 0x00FFFFFF)
_HEADER_BYTES = 400


def originals() -> list[bytes]:
    return [encode(noise(0.25, encoding.rate), encoding) for encoding in FORMATS]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """``count`` recordings, the formats in turn, each with one to four faults."""
    return mutated_from(originals(), count, seed)


def mutated_from(whole: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for index in range(count):
        damaged = bytearray(whole[index % len(whole)])
        for _ in range(random.integers(1, 5)):
            _FAULTS[random.integers(len(_FAULTS))](damaged, random)
        yield bytes(damaged)


def with_huge_sizes() -> Iterator[bytes]:
    """A large number at every offset of the first and the last bytes, where headers lie, in either order."""
    for whole in originals():
        ends = {
            *range(min(_HEADER_BYTES, len(whole) - 4)),
            *range(max(len(whole) - _HEADER_BYTES, 0), len(whole) - 4),
        }
        for offset in sorted(ends):
            damaged = bytearray(whole)
            struct.pack_into("<I" if offset % 2 else ">I", damaged, offset, _HUGE[offset // 2 % len(_HUGE)])
            yield bytes(damaged)


def _flip(damaged: bytearray, random: np.random.Generator) -> None:
    for _ in range(random.integers(1, 16)):
        damaged[random.integers(len(damaged))] = random.integers(256)


def _flip_header(damaged: bytearray, random: np.random.Generator) -> None:
    for _ in range(random.integers(1, 6)):
        damaged[random.integers(min(_HEADER_BYTES, len(damaged)))] = random.integers(256)


def _inflate(damaged: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(damaged) - 4))
    struct.pack_into(random.choice(["<I", ">I"]), damaged, at, int(random.choice(_HUGE)))


def _cut(damaged: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(damaged)))
    del damaged[at : at + int(random.integers(1, 200))]
    damaged.extend(bytes(max(0, 64 - len(damaged))))


def _insert(damaged: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(damaged)))
    damaged[at:at] = random.bytes(int(random.integers(1, 200)))


def _repeat(damaged: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(damaged)))
    damaged[at:at] = damaged[at : at + int(random.integers(1, 2000))]


_FAULTS = (_flip, _flip_header, _inflate, _cut, _insert, _repeat)
