"""Other people's Whisper engines, given the same windows of the same samples, greedy, with the same limits.

They are external engines: their own features, encoder and decoder, one window at a time, as their users run
them. What they share with our path is what goes in (``pack``) and which windows have no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from harness.errors import UnavailableError, UsageError
from harness.protocols import Evidence, Hypothesis, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from variants.models.options import PRECISIONS, ModelOptions
from variants.models.whisper.features import SAMPLE_RATE, WINDOW_SAMPLES
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.rules import WhisperTokenizer
from variants.models.whisper.windows import pack


@dataclass(frozen=True, slots=True)
class Said:
    """What an engine found in a window."""

    tokens: tuple[int, ...]
    """Without prompt and end; timestamps among them."""
    no_speech: float
    mean_log_probability: float


class WindowEngine(Protocol):
    """Another's model in its three stages. Each returns when its work is done."""

    def features(self, samples: np.ndarray) -> Any:
        """Of a window of ``WINDOW_SAMPLES`` float32 samples."""
        ...

    def encode(self, features: Any) -> Any: ...

    def decode(self, states: Any) -> Said: ...


@dataclass
class Peer:
    """See ``variants.batching.types.Inference``."""

    name: str
    engine: WindowEngine
    tokenizer: WhisperTokenizer
    options: WhisperOptions
    provenance: dict[str, Any]
    _counts: dict[str, int] = field(default_factory=lambda: {"windows": 0, "tokens": 0})

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        with spans.span("segment"):
            windows = [pack(segments) for segments in recordings]
        heard = [tuple(self._hear(window, spans) for window in each) for each in windows]
        with spans.span("text"):
            return [Transcript(self._text(each), each) for each in heard]

    def _hear(self, window: Segment, spans: SpanRecorder) -> Hypothesis:
        with spans.span("features"):
            samples = np.zeros(WINDOW_SAMPLES, np.float32)
            samples[: len(window.samples)] = window.samples
            features = self.engine.features(samples)
        with spans.span("encoder"):
            states = self.engine.encode(features)
        with spans.span("decoder"):
            said = self.engine.decode(states)
        self._counts["windows"] += 1
        self._counts["tokens"] += len(said.tokens)
        nothing = self.options.no_text(said.no_speech, said.mean_log_probability)
        return Hypothesis(() if nothing else said.tokens)

    def _text(self, hypotheses: Sequence[Hypothesis]) -> str:
        return " ".join(filter(None, (self.tokenizer.decode(each.tokens) for each in hypotheses)))

    def open_stream(self) -> Stream:
        raise UnavailableError(f"model={self.name} hears windows of 30 s: it has no live streams")

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Every window has the same shape."""
        if list(lengths_s):
            noise = np.random.default_rng(0).standard_normal(WINDOW_SAMPLES, dtype=np.float32)
            self.transcribe([[Segment(0.1 * noise, SAMPLE_RATE, 0.0)]], SpanRecorder())

    def evidence(self) -> Evidence:
        return {
            "model": {"name": self.name, **self.provenance},
            **self._counts,
            "windows_at_once": 1,
            "long_form": {"method": "packed"},
        }


def check(options: ModelOptions) -> WhisperOptions:
    """The options of a peer. Raises ``UsageError`` for what only our own path offers."""
    asked: WhisperOptions = options.options
    if options.weights in ("synthetic", "embedded"):
        raise UsageError(
            f"model.weights={options.weights}: model={options.name} needs real weights; give them"
        )
    if asked.long_form != "packed":
        raise UsageError(f"model.options.long_form={asked.long_form}: model={options.name} is given windows")
    return asked


def precision(options: ModelOptions) -> str:
    return PRECISIONS[options.precision]
