"""Container bytes to mono samples, in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from harness.audio.isolated import DecoderPool
from harness.audio.limits import Limits
from harness.audio.mono import Heard
from harness.audio.reading import Nowhere, needs_a_decoder, read
from harness.audio.target import Target
from harness.protocols import Allocate, Audio


def ignore(found: Heard) -> None:
    """For whoever does not want to know."""


def decode(
    payload: bytes,
    limits: Limits = Limits(),  # noqa: B008 (a frozen value)
    target: Target = Target(),  # noqa: B008
    *,
    pool: DecoderPool | None = None,
    allocate: Allocate = np.empty,
    told: Callable[[Heard], None] = ignore,
) -> Audio:
    """First audio track of ``payload``, mixed to mono: float32 ``[n]``, nominally in [-1, 1].

    Raises ``RequestError`` for a payload that is empty, damaged, not audio, without samples or above a
    limit, that holds NaN or infinity, or that ends before its container says.

    With a ``pool``, what needs a decoder is decoded in a process that may die of it; without one, in
    the calling process, which suits recordings of one's own. ``told`` learns how it went, where it went well.
    """
    if pool is not None and payload and needs_a_decoder(payload):
        found, samples = pool.read(payload, limits, target, allocate)
    else:
        blocks = _Blocks()
        found = read(payload, limits, target, blocks)
        samples = allocate((found.samples,), np.float32)
        np.concatenate(blocks.parts, out=samples)
    told(found)
    return Audio(samples, found.sample_rate, found.warnings, found.resampled_ns)


def heard(payload: bytes, limits: Limits) -> Heard:
    """The recording as decoding finds it, never as a header states it.

    Raises ``RequestError`` as ``decode`` does; a payload that ends its decoder's process is one too.
    """
    if payload and needs_a_decoder(payload):
        return _pool_for_lengths().measure(payload, limits)
    return read(payload, limits, Target(), Nowhere())


class _Blocks:
    """A ``Sink`` that keeps all."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def write(self, block: np.ndarray) -> None:
        self.parts.append(block)

    def restart(self) -> None:
        self.parts.clear()


@cache
def _pool_for_lengths() -> DecoderPool:
    """One for the process: a set of recordings is measured one at a time, and a start takes long."""
    return DecoderPool()
