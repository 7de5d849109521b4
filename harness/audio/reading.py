"""Container bytes to blocks of mono samples, by the decoder that takes least time for what the bytes are.

Plain WAV is read as it lies; FLAC, MP3 and Vorbis go to libsndfile where it can be held to what their
containers say; all else goes to FFmpeg.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from harness.audio import ffmpeg, sndfile, wav
from harness.audio.limits import Limits
from harness.audio.mono import Heard, MonoWriter
from harness.audio.promise import Unsuited
from harness.audio.target import Target
from harness.errors import RequestError


class Sink(Protocol):
    """Where samples go as they are decoded."""

    def write(self, block: np.ndarray) -> None:
        """Takes the next float32 ``[n]``, which nobody changes from then on."""
        ...

    def restart(self) -> None:
        """Nothing that was written counts: another decoder begins anew."""
        ...


class Nowhere:
    """A ``Sink`` for whoever wants to know of a recording what ``Heard`` says."""

    def write(self, block: np.ndarray) -> None: ...

    def restart(self) -> None: ...


def read(payload: bytes, limits: Limits, target: Target, sink: Sink) -> Heard:
    """Write the first audio track of ``payload`` as ``target`` wants it; see ``decode`` for the errors.

    Memory stays that of a few blocks, whatever the recording's length and whatever its headers claim.
    """
    if not payload:
        raise RequestError("the payload is empty (0 bytes): send the recording's bytes")
    limits.check_bytes(len(payload))
    loudest = 0
    if target.mix == "loudest":  # known at the end only, so the recording is heard twice
        loudest = _read(payload, limits, target, Nowhere(), loudest).loudest
    return _read(payload, limits, target, sink, loudest)


def needs_a_decoder(payload: bytes) -> bool:
    """Whether ``payload`` is no plain WAV. Raises ``RequestError`` for a WAV whose sizes cannot be."""
    parsed = wav.parse(payload)
    return parsed is None or not parsed.plain


def _read(payload: bytes, limits: Limits, target: Target, sink: Sink, loudest: int) -> Heard:
    make_writer = partial(MonoWriter, limits, target, sink.write, loudest)
    parsed = wav.parse(payload)
    if parsed is not None and parsed.plain:
        return replace(_plain(parsed, make_writer), decoder="wav")
    declined = ""
    try:
        promise = sndfile.promised(payload)
        if promise is not None:
            return replace(sndfile.read(payload, promise, make_writer), decoder="soundfile")
    except Unsuited as reason:
        declined = str(reason)
        sink.restart()
    return replace(ffmpeg.read(payload, limits, make_writer), decoder="pyav", declined=declined)


def _plain(parsed: wav.Wav, make_writer: Callable[[int, int], MonoWriter]) -> Heard:
    writer = make_writer(parsed.channels, parsed.sample_rate)
    for block in parsed.blocks():
        writer.append(block)
    if writer.position == 0:
        raise RequestError("the recording holds no samples: it is a header without audio")
    return writer.finish()
