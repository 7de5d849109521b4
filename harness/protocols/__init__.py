"""The seams between what measures (``harness``) and what is measured (``variants``).

Importing this module imports neither torch nor NeMo: processes that only preprocess stay light.
Shapes are written ``[B, F, T]``: batch, feature bins, time. Times are seconds unless a name says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

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


# ---------------------------------------------------------------- building, before anything is served


class BuildProgress(Protocol):
    """Told what a part does while it is built: compiled, captured, measured, loaded."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """``what`` is a phrase for a person ("capturing graphs"), ``done`` of ``total`` steps of it;
        a ``total`` of 0: nobody knows how many. May be called from any thread of the process."""
        ...


def silent(what: str, done: int = 0, total: int = 0) -> None:
    """The ``BuildProgress`` of whoever does not want to know; picklable."""


# ---------------------------------------------------------------- audio, from bytes to segments


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded sound. ``samples`` is float32 in [-1, 1]: ``[n]`` (mono) or ``[channels, n]``."""

    samples: np.ndarray
    sample_rate: int
    warnings: tuple[str, ...] = ()
    """What the sender should know of a recording that was understood all the same."""
    resampled_ns: int = 0
    """Of the time that decoding took, what went into resampling block by block."""

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
    """A stretch of one request that is transcribed on its own; ``samples`` is float32 ``[n]``.

    Before a front end on the device, the whole recording at its own rate, int16 where that is exact.
    """

    samples: np.ndarray
    sample_rate: int
    start_s: float
    end_s: float | None = None
    """In the request, where pauses were left out of ``samples``; None: where they end."""

    @property
    def place(self) -> tuple[float, float]:
        """From where to where it is in the request, in seconds."""
        length_s = len(self.samples) / self.sample_rate
        return self.start_s, self.start_s + length_s if self.end_s is None else self.end_s


class Frontend(Protocol):
    """Container bytes to segments of speech; every stage is a span of the same name."""

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[Segment]:
        """Each speech segment at the model's rate; empty where there is no speech.

        Raises ``RequestError`` for a payload that cannot be decoded.
        """
        ...

    @property
    def stages(self) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        """(span name, function) in order; each function takes what the one before returned.

        The first takes ``bytes``; the last returns ``list[Segment]``. Topologies split the path
        between processes at these joints.
        """
        ...


# ---------------------------------------------------------------- model, encoder, decoder


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Padded features of several segments: float32 ``[B, F, T]``, zero beyond ``lengths``.

    On the host, or on the encoder's device where the model computes them there.
    """

    values: np.ndarray | torch.Tensor
    lengths: np.ndarray  # int64 [B], valid frames


class Features(Protocol):
    """What a model hears of samples: its family's own log-mel, normalized as it was trained."""

    def frames(self, samples: int) -> int:
        """Feature frames of so many samples at the model's rate; 0 where they are too few for one."""
        ...

    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        """Row ``i`` holds ``frames`` of segment ``i``, each of which has at least one."""
        ...


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
    """Of the audio set if nobody paused in it, where a set is known: the planner's histogram."""
    progress: BuildProgress = field(default=silent, compare=False, repr=False)
    """Hears of what an encoder or a decoder prepares for these shapes."""


class TextSegment(NamedTuple):
    """What was understood of a stretch of a recording, whose place in it is in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a request got back: text, and the tokens of each segment in order."""

    text: str
    hypotheses: tuple[Hypothesis, ...] = ()
    segments: tuple[TextSegment, ...] = ()
    """Of each hypothesis, or none where the engine does not tell them apart."""
    bounds: tuple[tuple[float, float], ...] | None = None
    """Where speech begins and ends in the recording, in seconds; None where the host's front end cut it."""


class Stream(Protocol):
    """One live conversation on an engine: audio in as it is spoken, text out as it is understood."""

    def push(self, samples: np.ndarray) -> str | None:
        """Take float32 mono ``[n]`` at the engine's rate; the text so far if it changed, else None."""
        ...

    def commit(self) -> Transcript:
        """End of speech: the final transcript. The stream takes no audio after it."""
        ...


# ---------------------------------------------------------------- the engine: work of many requests

WorkKind = Literal["transcribe", "open", "push", "commit", "abandon"]
"""A whole recording, or what happens to a live stream: it opens, is given audio, ends, is given up."""


@dataclass(slots=True, eq=False)
class Work:
    """What one request asks of an engine next, and what became of it.

    ``segments`` are a recording's; ``samples`` (float32 ``[n]`` at the model's rate) the next chunk of
    the stream ``stream_id``, and the engine's to keep. ``spans`` is where its time goes.
    """

    kind: WorkKind
    done: Callable[[Work], None]
    """Called once, from within ``Engine.step``, when the fields below are filled in."""
    spans: SpanRecorder
    segments: Sequence[Segment] = ()
    stream_id: int = 0
    samples: np.ndarray | None = None

    result: Transcript | str | None = None
    """A ``Transcript`` for ``transcribe`` and ``commit``; for ``push`` the text so far if it changed."""
    error: str | None = None
    batch_id: int = 0
    """Works of one batch share it; 0 where there was no batch."""
    batch_size: int = 1


@runtime_checkable
class Engine(Protocol):
    """Inference as the serving path sees it. For one thread at a time: a topology owns it."""

    @property
    def batches(self) -> bool:
        """Whether works of several requests are computed together."""
        ...

    def submit(self, work: Work) -> None:
        """Accept; computes nothing. Works of one stream are done in the order of their submission."""
        ...

    def step(self) -> bool:
        """Do some of what was submitted; whether there was anything to do. Failures are in the works."""
        ...

    @property
    def pending(self) -> int:
        """Works submitted and not done."""
        ...

    @property
    def wants_work(self) -> bool:
        """Whether another work would be batched with those that wait, rather than wait behind them."""
        ...

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a step has something to do with what is pending, 0 where it has now: so long its
        owner may wait for more work. None where nothing is pending."""
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
    """The service's answer. ``error`` is set instead of ``transcript`` when the request failed.

    Requests that were computed together have the same ``batch_id`` (from 1; 0 is a request that was
    computed alone) and its number of requests as ``batch_size``.
    """

    request_id: str
    transcript: Transcript | None
    spans: tuple[Span, ...]
    started_ns: int
    finished_ns: int
    error: str | None = None
    segments: int = 0
    speech_s: float = 0.0
    batch_id: int = 0
    batch_size: int = 1
    attempts: int = 1
    """Of a client that sends what failed again."""


@dataclass(frozen=True)
class ServiceSpec:
    """All that a topology needs to build the service, picklable for its child processes."""

    make_frontend: Callable[[], Frontend]
    make_engine: Callable[[], Engine]
    ipc: Mapping[str, Any] = field(default_factory=dict)
    io: Mapping[str, Any] = field(default_factory=dict)
    gc: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: Sequence[int] = ()
    """CUDA devices, of those visible, that infer; none given: the first."""
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
