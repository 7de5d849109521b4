"""What a batch may be, and which of the works that wait are in the next one.

A batch is built around the work that has waited longest. To it come the waiting works nearest in length, as
long as rows, padded frames and padding allow. A younger work may so be served before an older one, but only
a stated number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from msgspec import Meta

from harness.protocols import Segment, Work
from harness.protocols.options import Count, Positive, PositiveSeconds
from variants.serving.streams import STREAM_RATE

_FRAME_S = 0.01


@dataclass(frozen=True)
class Bounds:
    """What a batch may be, and how much may wait for one."""

    max_batch: Positive = 64
    """Segments that one batch may have; one work of more is a batch by itself."""
    max_frames: Positive = 128_000
    """Frames of 10 ms that it may have, padding included; one work of more is a batch by itself."""
    max_padding: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Share of a batch that may be padding: what is shorter than its longest segment. Where the oldest work's
    own segments differ by more, as much. An engine that sorts segments into batches of its own pads less."""
    max_passed_over: Count = 8
    """Batches with younger works that a work lets pass; from then on none overtakes it."""
    max_pending: Positive = 512
    """Works to hold; more wait in the link, which slows their senders down. Of live streams, at least two
    each."""
    max_streams: Positive = 256
    """Live streams at once, each in a slot of its own; one more is refused."""
    max_lag_s: PositiveSeconds = 10.0
    """How far a live stream may be behind its own audio, as spoken; one that is later is ended with an error,
    so that no lag grows without end."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A work and, in samples at 16 kHz, the lengths of its segments, or of the window of its next chunk."""

    work: Work
    lengths: tuple[int, ...]
    since_ns: int
    """When it came."""
    idle_from_ns: int
    """When nothing was done on it any more: it came, or its last chunk was computed."""
    passed_over: int = 0
    spoken_ns: int = 0
    """Of a live stream: when its audio ends, spoken from its arrival on and after what came before it."""

    @classmethod
    def of(cls, work: Work, at_ns: int) -> Waiting:
        return cls(work, tuple(_length(segment) for segment in work.segments), at_ns, at_ns)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)


def _length(segment: Segment) -> int:
    """In samples at one rate: before a front end on the device, recordings come at their own."""
    return -(-len(segment.samples) * STREAM_RATE // segment.sample_rate)


class Size(NamedTuple):
    """Of rows that are computed together, in samples."""

    rows: int
    longest: int
    total: int
    """Of the rows' own lengths."""

    @classmethod
    def of(cls, waiting: Waiting) -> Size:
        return cls(len(waiting.lengths), waiting.longest, sum(waiting.lengths))

    def joined(self, other: Size) -> Size:
        return Size(self.rows + other.rows, max(self.longest, other.longest), self.total + other.total)

    @property
    def area(self) -> int:
        """Padding included."""
        return self.rows * self.longest

    @property
    def frames(self) -> float:
        return self.area / (STREAM_RATE * _FRAME_S)

    @property
    def padding(self) -> float:
        """The share that is beyond the rows' own lengths."""
        return 1.0 - self.total / self.area if self.area else 0.0


class Chosen(NamedTuple):
    """Indices of the works of the next batch, that of the oldest first; ``full``: of what waits no more
    fits, or there are as many rows as there may be."""

    indices: list[int]
    full: bool


def choose(waiting: Sequence[Waiting], bounds: Bounds) -> Chosen:
    """The batch around the oldest of ``waiting``. See the module."""
    oldest, batch, chosen, full = waiting[0], Size.of(waiting[0]), [0], False
    most_padding = max(bounds.max_padding, batch.padding)
    # Stable: among works of the same length, the older.
    for index in sorted(_eligible(waiting, bounds), key=lambda i: abs(waiting[i].longest - oldest.longest)):
        candidate = batch.joined(Size.of(waiting[index]))
        if candidate.rows > bounds.max_batch or candidate.frames > bounds.max_frames:
            full = True
        elif candidate.padding <= most_padding:
            chosen.append(index)
            batch = candidate
    return Chosen(chosen, full or batch.rows >= bounds.max_batch or batch.frames >= bounds.max_frames)


def take(waiting: list[Waiting], indices: Sequence[int]) -> list[Waiting]:
    """Remove a batch from ``waiting``; what is older than its youngest was passed over once more."""
    taken, youngest = set(indices), max(indices)
    batch = [waiting[index] for index in indices]
    for each in (each for index, each in enumerate(waiting[:youngest]) if index not in taken):
        each.passed_over += 1
    waiting[:] = [each for index, each in enumerate(waiting) if index not in taken]
    return batch


def _eligible(waiting: Sequence[Waiting], bounds: Bounds) -> range:
    """What may join the oldest: none that is younger than one which has let enough pass."""
    enough = (i for i, each in enumerate(waiting) if i and each.passed_over >= bounds.max_passed_over)
    return range(1, next(enough, len(waiting) - 1) + 1)
