"""The seam between a batching choice and what computes: a choice makes an ``Engine`` of an ``Inference``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from harness.protocols import Evidence, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from variants.serving.pool import Apart, StreamPool


@runtime_checkable
class Inference(Protocol):
    """Computes what it is given, now and in one go. A model with its parts, or another's whole engine."""

    def transcribe(
        self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder
    ) -> Sequence[Transcript]:
        """A transcript for each recording, which is its segments in order; stages are in ``spans``."""
        ...

    def open_stream(self) -> Stream:
        """Start a live stream. Raises ``UnavailableError`` where the model cannot stream."""
        ...

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Visit every shape once: compile, capture and allocate before anything is timed."""
        ...

    def evidence(self) -> Evidence: ...


@runtime_checkable
class Pooling(Protocol):
    """An ``Inference`` whose live streams can be computed together."""

    def open_pool(self, slots: int) -> StreamPool:
        """Room for so many. Raises as ``open_stream`` does."""
        ...


def open_pool(inference: Inference, slots: int) -> StreamPool:
    """Of an inference that can do nothing together, streams that each compute what they are given."""
    return (
        inference.open_pool(slots) if isinstance(inference, Pooling) else Apart(inference.open_stream, slots)
    )
