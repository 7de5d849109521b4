"""Decoded blocks to mono at one rate, as they come: memory follows the seconds at that rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from harness.audio.limits import Limits
from harness.audio.pcm import Channels, joined, refuse_unusable
from harness.audio.target import Target
from harness.spans import now_ns

Samples = npt.NDArray[np.float32]

_BLOCK = 16_384  # samples: resampling smaller ones costs twice as much
_CANCELLED = 0.01  # of the channels' mean energy; what 64 channels keep in which one speaks is 0.016


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
    decoder: str = ""
    """Who decoded it: ``wav`` (this project), ``soundfile`` or ``pyav``."""
    declined: str = ""
    """Why it was left to ``pyav``, where ``soundfile`` was to decode its format."""

    @property
    def length_s(self) -> float:
        return self.source_samples / self.source_rate

    def fields(self) -> dict[str, Any]:
        """What ``dataclasses.asdict`` would copy, of which nothing can change."""
        return {name: getattr(self, name) for name in self.__slots__}


class MonoWriter:
    """Takes blocks ``[channels, n]`` of any width in order and writes float32 ``[n]`` of the target.

    Raises ``RequestError`` as soon as a limit is passed or a sample is no number.
    """

    def __init__(
        self,
        limits: Limits,
        target: Target,
        write: Callable[[np.ndarray], None],
        loudest: int,
        channels: int,
        sample_rate: int,
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
        self._pending: list[Channels] = []
        self._pending_samples = self._written = self._resampled_ns = 0
        self._energies = np.zeros(channels)
        self._mixed_energy = 0.0

    def append(self, values: Channels) -> None:
        """``values`` are of a type that ``pcm.joined`` takes, one type throughout."""
        count = len(values[0])
        self._pending.append(values)
        self._pending_samples += count
        self.position += count
        if self._pending_samples >= _BLOCK:
            self._flush()

    def silence(self, count: int) -> None:
        """``count`` samples of nothing, where the recording's timestamps leave a gap."""
        self._limits.check_length((self.position + count) / self.sample_rate)
        self._flush()
        self.position += count
        nothing = np.zeros(min(_BLOCK, count), np.float32)
        for start in range(0, count, _BLOCK):
            self._emit(nothing[: count - start])

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

    def _flush(self, last: bool = False) -> None:
        self._limits.check_length(self.position / self.sample_rate)
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused below
            mono = self._mixed(joined(self._pending, self.channels))
        self._pending, self._pending_samples = [], 0
        refuse_unusable(mono, self.sample_rate, (self.position - len(mono)) / self.sample_rate)
        self._emit(mono, last)

    def _emit(self, mono: Samples, last: bool = False) -> None:
        if self._resampler is not None:
            start_ns = now_ns()
            mono = self._resampler.resample_chunk(mono, last=last)
            self._resampled_ns += now_ns() - start_ns
        self._written += len(mono)
        self._write(mono)

    def _mixed(self, block: Samples) -> Samples:
        mono: Samples
        if self._mix in ("left", "right"):
            return np.ascontiguousarray(block[int(self._mix == "right")])
        self._energies += [np.dot(channel, channel) for channel in block]
        if self._mix == "loudest":
            return np.ascontiguousarray(block[self._loudest])
        mono = _mean(block)
        self._mixed_energy += float(np.vdot(mono, mono))
        return mono

    def _warnings(self) -> tuple[str, ...]:
        if self._mix != "mean" or self._mixed_energy >= _CANCELLED * self._energies.mean():
            return ()
        return (
            "the channels cancel each other (one of them is inverted) and their mean is near silence: "
            "set frontend.mix=loudest, left or right",
        )


def _mean(block: Samples) -> Samples:
    """Of all channels; of two without NumPy's detour over pairs, wherever they lie."""
    mono: Samples
    if len(block) != 2:
        mono = block.mean(axis=0, dtype=np.float32)
        return mono
    mono = np.add(block[0], block[1])
    mono *= np.float32(0.5)
    return mono
