"""Container bytes to mono samples, in memory: plain WAV as it lies, all else through FFmpeg."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from harness.audio import ffmpeg, wav
from harness.audio.limits import Limits
from harness.audio.mono import Heard, MonoWriter, Target
from harness.errors import RequestError
from harness.protocols import Allocate, Audio

Write = Callable[[np.ndarray], None]
"""Takes the next float32 ``[n]``, which is the caller's again afterwards."""


def decode(
    payload: bytes,
    limits: Limits = Limits(),  # noqa: B008 (a frozen value)
    target: Target = Target(),  # noqa: B008
    *,
    allocate: Allocate = np.empty,
) -> Audio:
    """First audio track of ``payload``, mixed to mono: float32 ``[n]``, nominally in [-1, 1].

    Blocks are mixed and resampled as they come, so memory follows the seconds at the target's rate;
    nothing is allocated by what a header claims. Raises ``RequestError`` for a payload that is empty,
    damaged, not audio, without samples or above a limit, that holds NaN or infinity, or that ends before
    its container says.

    It decodes in the calling process, which a defect of a decoder could end: for what strangers sent
    there is ``isolated.DecoderPool``.
    """
    parts: list[np.ndarray] = []
    heard = decode_into(payload, limits, target, lambda block: parts.append(block.copy()))
    samples = allocate((heard.samples,), np.float32)
    np.concatenate(parts, out=samples)
    return Audio(samples, heard.sample_rate, heard.warnings, heard.resampled_ns)


def decode_into(payload: bytes, limits: Limits, target: Target, write: Write) -> Heard:
    """What ``decode`` does, but for where the samples go."""
    if not payload:
        raise RequestError("the payload is empty (0 bytes): send the recording's bytes")
    limits.check_bytes(len(payload))
    loudest = 0
    if target.mix == "loudest":  # known at the end only, so the recording is heard twice
        loudest = _read(payload, limits, partial(_writer, limits, target, lambda _: None, 0)).loudest
    return _read(payload, limits, partial(_writer, limits, target, write, loudest))


def plain_wav(payload: bytes) -> bool:
    """Whether no decoder is needed. Raises ``RequestError`` for a WAV whose sizes cannot be."""
    parsed = wav.parse(payload)
    return parsed is not None and parsed.plain


def decoded_length_s(payload: bytes, limits: Limits) -> float:
    """The recording's true length in seconds: of what was decoded, never of what a header states.

    Raises ``RequestError`` as ``decode`` does.
    """
    return decode_into(payload, limits, Target(), lambda _: None).length_s


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


def _writer(
    limits: Limits, target: Target, write: Write, loudest: int, channels: int, sample_rate: int
) -> MonoWriter:
    return MonoWriter(channels, sample_rate, limits, target, write, loudest)
