"""Container bytes to blocks of mono samples: plain WAV as it lies, all else through FFmpeg."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from harness.audio import ffmpeg, wav
from harness.audio.limits import Limits
from harness.audio.mono import Heard, MonoWriter
from harness.audio.target import Target
from harness.errors import RequestError

Write = Callable[[np.ndarray], None]
"""Takes the next float32 ``[n]``, which it must not keep."""


def read(payload: bytes, limits: Limits, target: Target, write: Write) -> Heard:
    """Write the first audio track of ``payload`` as ``target`` wants it; see ``decode`` for the errors.

    Memory stays that of a few blocks, whatever the recording's length and whatever its headers claim.
    """
    if not payload:
        raise RequestError("the payload is empty (0 bytes): send the recording's bytes")
    limits.check_bytes(len(payload))
    loudest = 0
    if target.mix == "loudest":  # known at the end only, so the recording is heard twice
        loudest = _read(payload, limits, partial(MonoWriter, limits, target, lambda _: None, 0)).loudest
    return _read(payload, limits, partial(MonoWriter, limits, target, write, loudest))


def needs_a_decoder(payload: bytes) -> bool:
    """Whether ``payload`` is no plain WAV. Raises ``RequestError`` for a WAV whose sizes cannot be."""
    parsed = wav.parse(payload)
    return parsed is None or not parsed.plain


def _read(payload: bytes, limits: Limits, make_writer: ffmpeg.MakeWriter) -> Heard:
    parsed = wav.parse(payload)
    if parsed is None or not parsed.plain:
        return ffmpeg.read(payload, limits, make_writer)
    writer = make_writer(parsed.channels, parsed.sample_rate)
    for block in parsed.blocks():
        writer.append(block)
    if writer.position == 0:
        raise RequestError("the recording holds no samples: it is a header without audio")
    return writer.finish()
