"""The seam between a batching choice and what computes: a choice makes an ``Engine`` of an ``Inference``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from harness.protocols import Evidence, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from variants.serving.pool import StreamPool


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

    def open_pool(self, slots: int) -> StreamPool:
        """Room for so many live streams that are computed together. Raises as ``open_stream`` does."""
        ...

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Visit every shape once: compile, capture and allocate before anything is timed."""
        ...

    def evidence(self) -> Evidence: ...
