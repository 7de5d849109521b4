"""Decoded blocks to mono at one rate, as they come: memory follows the seconds at that rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr

from harness.audio.limits import Limits
from harness.audio.pcm import refuse_unusable, scale_into
from harness.spans import now_ns

MIXES = ("mean", "loudest", "left", "right")
_BLOCK = 16_384  # samples: resampling smaller ones costs twice as much
_CANCELLED = 0.01  # of the channels' mean energy; what 64 channels keep in which one speaks is 0.016


@dataclass(frozen=True, slots=True)
class Target:
    """What decoded audio becomes: mono by ``mix``, at ``sample_rate`` in Hz (None: its own)."""

    mix: str = "mean"
    sample_rate: int | None = None
    quality: str = "HQ"


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording after decoding, in JSON types. ``channels`` and ``source_rate`` are its own,
    ``samples`` and ``sample_rate`` those of what it became."""

    channels: int
    source_rate: int
    source_samples: int
    samples: int
    sample_rate: int
    resampled_ns: int
    loudest: int
    """The channel of the largest energy."""
    warnings: tuple[str, ...] = ()

    @property
    def length_s(self) -> float:
        return self.source_samples / self.source_rate


class MonoWriter:
    """Takes blocks ``[channels, n]`` of any width in order and writes float32 ``[n]`` of the target.

    Raises ``RequestError`` as soon as a limit is passed or a sample is no number.
    """

    def __init__(
        self,
        channels: int,
        sample_rate: int,
        limits: Limits,
        target: Target,
        write: Callable[[np.ndarray], None],
        loudest: int = 0,
    ) -> None:
        limits.check_format(channels, sample_rate)
        self.sample_rate, self.channels = sample_rate, channels
        self.position = 0
        """Samples of the recording so far, at its own rate."""
        self._limits, self._write, self._loudest = limits, write, loudest
        self._mix = target.mix if channels > 1 else "left"
        self._rate = target.sample_rate or sample_rate
        self._resampler = (
            soxr.ResampleStream(sample_rate, self._rate, 1, quality=target.quality)
            if self._rate != sample_rate
            else None
        )
        self._block = np.empty((channels, _BLOCK), np.float32)
        self._filled = self._written = self._resampled_ns = 0
        self._energies = np.zeros(channels)
        self._mixed_energy = 0.0

    def append(self, values: np.ndarray) -> None:
        """``values`` is ``[channels, n]`` of a type that ``pcm.scale_into`` takes."""
        self._limits.check_length((self.position + values.shape[1]) / self.sample_rate)
        start = 0
        while start < values.shape[1]:
            count = min(_BLOCK - self._filled, values.shape[1] - start)
            scale_into(values[:, start : start + count], self._block[:, self._filled : self._filled + count])
            self._advance(count)
            start += count

    def silence(self, count: int) -> None:
        """``count`` samples of nothing, where the recording's timestamps leave a gap."""
        self._limits.check_length((self.position + count) / self.sample_rate)
        while count > 0:
            part = min(_BLOCK - self._filled, count)
            self._block[:, self._filled : self._filled + part] = 0.0
            self._advance(part)
            count -= part

    def finish(self) -> Heard:
        self._flush(last=True)
        return Heard(
            channels=self.channels,
            source_rate=self.sample_rate,
            source_samples=self.position,
            samples=self._written,
            sample_rate=self._rate,
            resampled_ns=self._resampled_ns,
            loudest=int(np.argmax(self._energies)),
            warnings=self._warnings(),
        )

    def _advance(self, count: int) -> None:
        self._filled += count
        self.position += count
        if self._filled == _BLOCK:
            self._flush()

    def _flush(self, last: bool = False) -> None:
        block = self._block[:, : self._filled]
        mono = self._mixed(block)
        refuse_unusable(mono, self.sample_rate, (self.position - self._filled) / self.sample_rate)
        self._filled = 0
        if self._resampler is not None:
            start_ns = now_ns()
            mono = self._resampler.resample_chunk(mono, last=last)
            self._resampled_ns += now_ns() - start_ns
        self._written += len(mono)
        self._write(mono)

    def _mixed(self, block: np.ndarray) -> np.ndarray:
        if self._mix in ("left", "right"):
            return block[int(self._mix == "right")]
        self._energies += [np.vdot(channel, channel) for channel in block]
        if self._mix == "loudest":
            return block[self._loudest]
        mono = block.mean(axis=0, dtype=np.float32)
        self._mixed_energy += float(np.vdot(mono, mono))
        return mono

    def _warnings(self) -> tuple[str, ...]:
        if self._mix != "mean" or self._mixed_energy >= _CANCELLED * self._energies.mean():
            return ()
        return (
            "the channels cancel each other (one of them is inverted) and their mean is near silence: "
            "set frontend.mix=loudest, left or right",
        )
