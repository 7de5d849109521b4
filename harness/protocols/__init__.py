"""The seams between what measures (``harness``) and what is measured (``variants``).

Importing this module imports neither torch nor NeMo: processes that only preprocess stay light.
Shapes are written ``[B, F, T]``: batch, feature bins, time. Times are seconds unless a name says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from harness.spans import Span, SpanRecorder

if TYPE_CHECKING:
    import torch

Evidence = Mapping[str, Any]
"""What a variant did, in JSON types: counts and shapes that prove that it engaged."""

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
"""``(shape, dtype)`` to an uninitialized array. A stage of a front end that has a parameter
``allocate`` makes its output there, so that a topology can give it memory which the next process
reads where it lies."""


# ---------------------------------------------------------------- audio, from bytes to features


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded sound. ``samples`` is float32 in [-1, 1]: ``[n]`` (mono) or ``[channels, n]``."""

    samples: np.ndarray
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return float(self.samples.shape[-1] / self.sample_rate)


@dataclass(frozen=True, slots=True)
class SpeechMap:
    """Mono audio with speech probabilities, one per window of ``window_s`` seconds."""

    audio: Audio
    probabilities: np.ndarray  # float32 [windows]
    window_s: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one request that is transcribed on its own; ``samples`` is float32 ``[n]``."""

    samples: np.ndarray
    sample_rate: int
    start_s: float


@dataclass(frozen=True, slots=True)
class SegmentFeatures:
    """Log-mel features of one segment: float32 ``[F, T]``, normalized, every frame valid."""

    values: np.ndarray
    start_s: float


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Padded features of several segments: float32 ``[B, F, T]``, zero beyond ``lengths``."""

    values: np.ndarray
    lengths: np.ndarray  # int64 [B], valid frames


class Frontend(Protocol):
    """Container bytes to features; every stage is a span of the same name."""

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[SegmentFeatures]:
        """Features of each speech segment; empty where there is no speech.

        Raises ``RequestError`` for a payload that cannot be decoded.
        """
        ...

    @property
    def stages(self) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        """(span name, function) in order; each function takes what the one before returned.

        The first takes ``bytes``; the last returns ``list[SegmentFeatures]``. Topologies split
        the path between processes at these joints.
        """
        ...


# ---------------------------------------------------------------- model, encoder, decoder


class BuildProgress(Protocol):
    """Called by whatever takes long (compiling, capturing, building an engine) as often as it comes further.

    It is how a person sees what goes on, and how those who wait know that it is not stuck: so it is called
    for work that was done, never because time has passed. Safe from any thread.
    """

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """``what`` is under way; ``done`` of ``total`` where there is a number (0: none)."""
        ...


def silent(what: str, done: int = 0, total: int = 0) -> None:
    """A ``BuildProgress`` that tells nobody."""


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """Encoder states ``[B, T', D]`` and valid lengths int64 ``[B]``, on the encoder's device."""

    values: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Greedy output of one segment. ``frames[i]`` is the encoder frame that emitted ``tokens[i]``;
    ``durations[i]`` is the number of frames that the model then skipped."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...] = ()
    durations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Hypotheses of a batch and the state from which the next chunk of each stream continues."""

    hypotheses: list[Hypothesis]
    state: Any = None


@runtime_checkable
class Encoder(Protocol):
    """Features to encoder states."""

    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """May return before the device has finished; the engine synchronizes."""
        ...

    def evidence(self) -> Evidence: ...


@runtime_checkable
class Decoder(Protocol):
    """Encoder states to tokens, greedily."""

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        """Hypotheses on the host. ``state`` continues streams from an earlier ``Decoded.state``."""
        ...

    def evidence(self) -> Evidence: ...


@dataclass(frozen=True, slots=True)
class ShapePlan:
    """The shapes a run will see, so that variants can capture, build and warm up ahead.

    ``buckets_s`` are upper edges of segment length in seconds, ascending; ``max_batch`` is the
    largest number of segments the engine encodes at once.
    """

    buckets_s: tuple[float, ...]
    max_batch: int
    segment_lengths_s: tuple[float, ...] = ()
    """Lengths of the audio set's segments where known: the planner's histogram."""
    progress: BuildProgress = silent


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a request got back: text, and the tokens of each segment in order."""

    text: str
    hypotheses: tuple[Hypothesis, ...] = ()


class Stream(Protocol):
    """One live conversation on an engine: audio in as it is spoken, text out as it is understood."""

    def push(self, samples: np.ndarray) -> str | None:
        """Take float32 mono ``[n]`` at the engine's rate; the text so far if it changed, else None."""
        ...

    def commit(self) -> Transcript:
        """End of speech: the final transcript. The stream takes no audio after it."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Inference as the serving path sees it: features in, transcript out."""

    def transcribe(self, segments: Sequence[SegmentFeatures], spans: SpanRecorder) -> Transcript: ...

    def open_stream(self) -> Stream:
        """Start a live stream. Raises ``UnavailableError`` where the model cannot stream."""
        ...

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Visit every shape once: compile, capture and allocate before anything is timed."""
        ...

    def evidence(self) -> Evidence: ...


# ---------------------------------------------------------------- the service under test


@dataclass(frozen=True, slots=True)
class Request:
    """One recording as it arrives: ``payload`` holds the container's bytes."""

    request_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The service's answer. ``error`` is set instead of ``transcript`` when the request failed."""

    request_id: str
    transcript: Transcript | None
    spans: tuple[Span, ...]
    started_ns: int
    finished_ns: int
    error: str | None = None
    segments: int = 0
    speech_s: float = 0.0


@dataclass(frozen=True)
class ServiceSpec:
    """All that a topology needs to build the service, picklable for its child processes."""

    make_frontend: Callable[[], Frontend]
    make_engine: Callable[[], Engine]
    ipc: Mapping[str, Any] = field(default_factory=dict)
    io: Mapping[str, Any] = field(default_factory=dict)
    gc: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    make_recorder: Callable[[], SpanRecorder] = SpanRecorder
    """One recorder per request; a profiled run passes one that also marks ranges for the profiler."""


@runtime_checkable
class Service(Protocol):
    """What a workload drives. ``handle`` is called from one or several client threads."""

    def start(self, progress: BuildProgress = silent) -> None:
        """Build every part and return when the first request would be served."""
        ...

    def warm_up(self, lengths_s: Iterable[float]) -> None: ...

    def handle(self, request: Request) -> Reply:
        """Serve one request and block until its reply; failures of the request are in the reply."""
        ...

    def evidence(self) -> Evidence: ...

    def close(self) -> None: ...
