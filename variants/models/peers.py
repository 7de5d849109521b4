"""Other people's engines over segments of speech, given the same samples, each in the call its users make.

They are external engines: features, encoder, search and text are theirs, and so is how they are put
together. What they share with our path is what goes in: the segments that the front end found.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harness.errors import UnavailableError, UsageError
from harness.protocols import Evidence, Hypothesis, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from variants.models.options import ModelOptions
from variants.models.types import SAMPLE_RATE
from variants.serving.inference import batches
from variants.serving.pool import Apart, StreamPool

_TOGETHER = 8
"""Segments of one call, as our own path encodes them (the default of ``model.max_batch``)."""
_SHORTEST = 2 * SAMPLE_RATE // 100
"""Samples of two feature frames: of fewer there is no deviation to normalize by."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine found in a segment."""

    text: str
    tokens: tuple[int, ...] = ()
    """Their ids in the model's vocabulary, where the engine tells them."""


class SegmentEngine(Protocol):
    """Another's engine in one call, which returns when its work is done."""

    def hear(self, samples: Sequence[np.ndarray]) -> Sequence[Heard]:
        """Of each clip, float32 ``[n]`` at ``SAMPLE_RATE``."""
        ...


@dataclass
class SegmentPeer:
    """See ``variants.batching.types.Inference``."""

    name: str
    engine: SegmentEngine
    provenance: dict[str, Any]
    _segments: int = 0

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        samples = [segment.samples for segments in recordings for segment in segments]
        with spans.span("engine"):
            heard = iter(self._hear(samples))
        of_each = [[next(heard) for _ in segments] for segments in recordings]
        with spans.span("text"):
            return [_transcript(each) for each in of_each]

    def _hear(self, samples: Sequence[np.ndarray]) -> list[Heard]:
        found = [Heard("")] * len(samples)
        long_enough = [row for row, clip in enumerate(samples) if len(clip) >= _SHORTEST]
        for group in batches([len(samples[row]) for row in long_enough], _TOGETHER):
            rows = [long_enough[index] for index in group]
            for row, heard in zip(rows, self.engine.hear([samples[row] for row in rows]), strict=True):
                found[row] = heard
        self._segments += len(samples)
        return found

    def open_stream(self) -> Stream:
        raise UnavailableError(f"model={self.name} is given whole segments: it has no live streams")

    def open_pool(self, slots: int) -> StreamPool:
        return Apart(self.open_stream, slots)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """One segment of noise of each length."""
        rng = np.random.default_rng(0)
        for length_s in sorted(set(lengths_s)):
            noise = 0.1 * rng.standard_normal(max(1, round(length_s * SAMPLE_RATE)), dtype=np.float32)
            self.transcribe([[Segment(noise, SAMPLE_RATE, 0.0)]], SpanRecorder())

    def evidence(self) -> Evidence:
        return {
            "model": {"name": self.name, **self.provenance},
            "segments": self._segments,
            "segments_at_once": _TOGETHER,
        }


def _transcript(heard: Sequence[Heard]) -> Transcript:
    text = " ".join(filter(None, (each.text.strip() for each in heard)))
    return Transcript(text, tuple(Hypothesis(each.tokens) for each in heard))


def check(options: ModelOptions) -> None:
    """Raises ``UsageError`` for what only our own path offers."""
    if options.weights == "synthetic":
        raise UsageError(
            f"model.weights=synthetic: model={options.name} needs trained weights, such as embedded"
        )
    if options.precision != "fp32":
        raise UsageError(f"model.precision={options.precision}: model={options.name} computes in fp32 here")


def check_host(options: ModelOptions) -> None:
    """Raises ``UnavailableError`` where a GPU is asked for."""
    if options.device == "cuda":
        raise UnavailableError(
            f"model.device=cuda: model={options.name} computes on the CPU here; leave it auto"
        )


def process_threads() -> int:
    """Of an engine that does not read OMP_NUM_THREADS (``runner.threads``) itself; all where that is 0."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else len(os.sched_getaffinity(0))


def versions(*packages: str) -> dict[str, str]:
    """Of installed distributions, for the provenance."""
    return {package: importlib.metadata.version(package) for package in packages}
