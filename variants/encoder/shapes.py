"""Where a batch goes: the smallest prepared shape that holds it, split where none is wide enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.protocols import ShapePlan
from variants.encoder.planner import (
    GRANULE,
    CostCurve,
    Profile,
    covering,
    histogram,
    plan,
    round_up,
    seconds_to_frames,
    segment_shapes,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One prepared shape: ``batch`` rows of at most ``frames`` feature frames, of profile ``profile``."""

    batch: int
    profile: int
    frames: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.frames}"


@dataclass(frozen=True, slots=True)
class ShapeGrid:
    """Every combination of the profiles' maxima and of ascending batch sizes."""

    profiles: tuple[Profile, ...]
    batches: tuple[int, ...]
    pad: bool = True
    """False: a batch keeps its own shape and only the profile is chosen."""

    @property
    def longest(self) -> int:
        """Feature frames of the longest prepared shape."""
        return self.profiles[-1].max

    def profile_of(self, frames: int) -> int | None:
        """Index of the profile for a padded length, or None where none reaches so far."""
        return next((i for i, profile in enumerate(self.profiles) if frames <= profile.max), None)

    def slot(self, rows: int, frames: int) -> Slot | None:
        """The smallest prepared shape that holds ``rows`` × ``frames``, or None; unpadded, that itself."""
        profile = self.profile_of(frames)
        batch = next((size for size in self.batches if rows <= size), None)
        if profile is None or batch is None:
            return None
        if not self.pad:
            return Slot(rows, profile, frames)
        return Slot(batch, profile, self.profiles[profile].max)

    def pieces(self, rows: int) -> Iterator[slice]:
        """``rows`` in stretches of the largest batch size, the last one shorter."""
        largest = self.batches[-1]
        for start in range(0, rows, largest):
            yield slice(start, min(rows, start + largest))

    def slots(self) -> list[Slot]:
        """Every prepared shape, largest first: what is built later reuses the memory of what was before."""
        made = [
            Slot(batch, index, profile.max)
            for index, profile in enumerate(self.profiles)
            for batch in self.batches
        ]
        return sorted(made, key=lambda slot: slot.batch * slot.frames, reverse=True)


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Powers of two up to ``max_batch``, and ``max_batch`` itself."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length()) if 1 << exponent <= max_batch]
    return tuple(sorted({*powers, max_batch}))


def make_grid(
    shapes: ShapePlan,
    *,
    k: int,
    longest_s: float,
    hop_s: float,
    cost: CostCurve,
    opt: str = "max",
    batches: Sequence[int] = (),
) -> ShapeGrid:
    """The planned profiles of a run's lengths, and every batch size up to its largest.

    A run that does not know its lengths gets its buckets as they are. The warm-up sends clips as long
    as the bucket edges that the set reaches: one profile more covers those beyond the longest recording.
    """
    lengths_s = shapes.segment_lengths_s or shapes.buckets_s
    k = k if shapes.segment_lengths_s else max(k, len(shapes.buckets_s))
    chosen = plan(histogram(segment_shapes(lengths_s, longest_s, hop_s)), k, cost, opt)
    profiles = covering(chosen, reached_frames(shapes, longest_s, hop_s))
    return ShapeGrid(profiles, tuple(sorted({*batches})) or batch_sizes(shapes.max_batch))


def reached_frames(shapes: ShapePlan, longest_s: float, hop_s: float) -> int:
    """Feature frames of the longest clip to come: the bucket edge above the longest segment, which the
    warm-up sends, and at least that segment."""
    last = max(shapes.buckets_s, default=0.0)
    longest = min(longest_s, max(shapes.segment_lengths_s, default=last))
    edge = min((edge for edge in shapes.buckets_s if edge >= longest), default=last)
    return round_up(seconds_to_frames(max(edge, longest), hop_s), GRANULE)


def output_frames(frames: int, subsampling_factor: int) -> int:
    """Encoder frames of ``frames`` feature frames: each stride-2 stage (kernel 3, padding 1) keeps
    the ceiling of half."""
    while subsampling_factor > 1:
        frames = (frames + 1) // 2
        subsampling_factor //= 2
    return frames
