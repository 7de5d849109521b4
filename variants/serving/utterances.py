"""What is transcribed of several recordings, on whichever side of the bus its samples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.errors import UsageError
from harness.protocols import FeatureBatch, Segment
from variants.models.types import Model

Bounds = tuple[tuple[float, float], ...]
"""Where each stretch of speech in a recording begins and ends, in seconds."""


class Utterances(Protocol):
    """Stretches that are long enough for at least one frame of features, recording by recording."""

    @property
    def counts(self) -> Sequence[int]:
        """Of each recording."""
        ...

    @property
    def bounds(self) -> Sequence[Bounds | None]:
        """Of each recording, those that are too short included; None where the host cut it."""
        ...

    @property
    def places(self) -> Sequence[tuple[float, float]]:
        """From where to where each utterance is in its recording, in seconds."""
        ...

    @property
    def frames(self) -> Sequence[int]:
        """Feature frames of each utterance."""
        ...

    def features(self, rows: Sequence[int]) -> FeatureBatch:
        """Of the utterances of these numbers."""
        ...


@dataclass(frozen=True)
class HostUtterances:
    """Segments that a front end cut on the host."""

    segments: Sequence[Segment]
    counts: Sequence[int]
    model: Model

    @classmethod
    def of(cls, recordings: Sequence[Sequence[Segment]], model: Model) -> HostUtterances:
        """Raises ``UsageError`` for a segment at another rate than the model's."""
        heard = [[each for each in segments if _frames(each, model)] for segments in recordings]
        return cls([each for segments in heard for each in segments], [*map(len, heard)], model)

    @property
    def bounds(self) -> Sequence[None]:
        return [None] * len(self.counts)

    @property
    def places(self) -> Sequence[tuple[float, float]]:
        return [each.place for each in self.segments]

    @property
    def frames(self) -> Sequence[int]:
        return [_frames(each, self.model) for each in self.segments]

    def features(self, rows: Sequence[int]) -> FeatureBatch:
        return self.model.features([self.segments[row] for row in rows])


def _frames(segment: Segment, model: Model) -> int:
    if segment.sample_rate != model.sample_rate:
        raise UsageError(
            f"frontend.sample_rate={segment.sample_rate}: model={model.name} hears samples at "
            f"{model.sample_rate} Hz"
        )
    return model.features.frames(len(segment.samples))
