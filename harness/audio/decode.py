"""Container bytes to mono samples, in memory."""

from __future__ import annotations

from functools import cache

import numpy as np

from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.mono import Heard
from harness.audio.reading import needs_a_decoder, read
from harness.audio.target import Target
from harness.protocols import Allocate, Audio


def decode(
    payload: bytes,
    limits: Limits = Limits(),  # noqa: B008 (a frozen value)
    target: Target = Target(),  # noqa: B008
    *,
    pool: DecoderPool | None = None,
    allocate: Allocate = np.empty,
) -> Audio:
    """First audio track of ``payload``, mixed to mono: float32 ``[n]``, nominally in [-1, 1].

    Raises ``RequestError`` for a payload that is empty, damaged, not audio, without samples or above a
    limit, that holds NaN or infinity, or that ends before its container says.

    With a ``pool``, what needs a decoder is decoded in a process that may die of it; without one, in
    the calling process, which suits recordings of one's own.
    """
    if pool is not None and payload and needs_a_decoder(payload):
        return _audio(*pool.read(payload, limits, target, allocate))
    parts: list[np.ndarray] = []
    found = read(payload, limits, target, lambda block: parts.append(block.copy()))
    samples = allocate((found.samples,), np.float32)
    np.concatenate(parts, out=samples)
    return _audio(found, samples)


def heard(payload: bytes, limits: Limits) -> Heard:
    """The recording as decoding finds it, never as a header states it.

    Raises ``RequestError`` as ``decode`` does; a payload that ends its decoder's process is one too.
    """
    if payload and needs_a_decoder(payload):
        return _pool_for_lengths().measure(payload, limits)
    return read(payload, limits, Target(), lambda _: None)


@cache
def _pool_for_lengths() -> DecoderPool:
    """One for the process: a set of recordings is measured one at a time, and a start takes long."""
    return DecoderPool()


def _audio(found: Heard, samples: np.ndarray) -> Audio:
    return Audio(samples, found.sample_rate, found.warnings, found.resampled_ns)
