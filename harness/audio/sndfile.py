"""FLAC, MP3 and Vorbis with libsndfile: less time than FFmpeg's libraries take, held to what was promised.

MP3s keep no delay and no padding where LAME's tag states them, as with FFmpeg.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import soundfile

from harness.audio import flac, mp3, ogg
from harness.audio.mono import Heard, MonoWriter
from harness.audio.promise import Promise, Unsuited

_BLOCK = 16_384


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
    """Read from beginning to end. A file that can be searched is searched after every block for where it
    stands already, and an MP3's decoder forgets there what the next frame needs of the last."""

    def seekable(self) -> bool:
        return False


def promised(payload: bytes) -> Promise | None:
    """What libsndfile has to find; None for a format that is FFmpeg's. Raises ``Unsuited``."""
    if payload.startswith(flac.MAGIC):
        return flac.promise(payload)
    if payload.startswith(ogg.MAGIC):
        return ogg.promise(payload)
    if payload.startswith(b"ID3") or mp3.header(payload[:4]) is not None:
        return mp3.promise(payload)
    return None


def read(payload: bytes, promise: Promise, make_writer: Callable[[int, int], MonoWriter]) -> Heard:
    """Decode into a writer. Raises ``Unsuited`` where anything but what was promised is found."""
    writer = make_writer(promise.channels, promise.sample_rate)
    try:
        with _Forward(io.BytesIO(payload)) as file:
            if (file.channels, file.samplerate) != (promise.channels, promise.sample_rate):
                raise Unsuited("libsndfile: another rate or channel count than promised")
            while len(block := file.read(_BLOCK, "float32", always_2d=True)):
                writer.append(block.T)
    except soundfile.LibsndfileError as error:
        raise Unsuited(f"libsndfile: {error.error_string}") from error
    if writer.position != promise.samples:
        raise Unsuited("libsndfile: not as many samples as promised")
    return writer.finish()
