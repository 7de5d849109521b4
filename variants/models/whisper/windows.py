"""From the segments of a recording to windows of thirty seconds, in one of two ways.

``Packed``: as many segments as fit, one behind another, are a window; windows of several recordings go
through the encoder together. ``Sequential``: openai-whisper's way (``whisper.transcribe`` at temperature 0),
where a window begins at the last timestamp of the one before and hears its text as a prompt, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UsageError
from harness.protocols import EncoderOutput, Evidence, FeatureBatch, Hypothesis, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from variants.models.whisper.features import (
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WindowLogMel,
    check_length,
)

if TYPE_CHECKING:
    from variants.decoder.attention.search import Found, WindowDecoder
    from variants.models.whisper.model import AttentionModel
    from variants.serving.inference import EncoderDecoder

_WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE
_FRAMES_PER_TIMESTAMP = 2


# ---------------------------------------------------------------- packed


def pack(segments: Sequence[Segment]) -> list[Segment]:
    """Windows of segments in order, each as full as whole segments make it. Raises ``UsageError`` for a
    segment that no window holds."""
    groups: list[list[Segment]] = []
    room = 0
    for segment in segments:
        count = len(check_length(segment).samples)
        if count > room:
            groups.append([])
            room = WINDOW_SAMPLES
        groups[-1].append(segment)
        room -= count
    return [group[0] if len(group) == 1 else _joined(group) for group in groups]


def _joined(segments: Sequence[Segment]) -> Segment:
    samples = np.concatenate([segment.samples for segment in segments])
    return Segment(samples, segments[0].sample_rate, segments[0].start_s, segments[-1].place[1])


@dataclass
class Packed:
    """See ``variants.batching.types.Inference``."""

    parts: EncoderDecoder
    _counts: dict[str, int] = field(default_factory=lambda: {"segments": 0, "windows": 0, "samples": 0})

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        with spans.span("segment"):
            windows = [pack(segments) for segments in recordings]
        self._count(recordings, windows)
        return self.parts.transcribe(windows, spans)

    def _count(self, recordings: Sequence[Sequence[Segment]], windows: Sequence[Sequence[Segment]]) -> None:
        self._counts["segments"] += sum(map(len, recordings))
        self._counts["windows"] += sum(map(len, windows))
        self._counts["samples"] += sum(len(each.samples) for window in windows for each in window)

    def open_stream(self) -> Stream:
        return self.parts.open_stream()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Every window has the same shape: one, and one full batch."""
        self.parts.warm_up([_WINDOW_S] if list(lengths_s) else [])

    def evidence(self) -> Evidence:
        windows, samples = self._counts["windows"], self._counts["samples"]
        long_form = {
            "method": "packed",
            "windows": windows,
            "segments": self._counts["segments"],
            "filled_share": samples / (windows * WINDOW_SAMPLES) if windows else 0.0,
        }
        return {**self.parts.evidence(), "long_form": long_form}


# ---------------------------------------------------------------- sequential


@dataclass
class Sequential:
    """See ``variants.batching.types.Inference``. The segments of a recording are heard as one."""

    parts: EncoderDecoder
    model: AttentionModel
    decoder: WindowDecoder
    _windows: int = 0

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        return [self._transcribe(segments, spans) for segments in recordings]

    def _transcribe(self, segments: Sequence[Segment], spans: SpanRecorder) -> Transcript:
        samples = np.concatenate([np.zeros(0, np.float32), *(each.samples for each in segments)])
        with spans.span("features"):
            log_mel = WindowLogMel(self.model.size.n_mels)
            mel = log_mel.of(samples, len(samples) + WINDOW_SAMPLES)  # [F, T]
        reading = _Reading(self.model, mel)
        language = self._language(mel, spans) if self.model.rules.languages and reading.going else None
        while reading.going:
            encoded = self._encode(reading.window(), spans)
            with spans.span("decoder"):
                (found,) = self.decoder.search(encoded, reading.prompt, language)
            reading.take(found)
            self._windows += 1
        with spans.span("text"):
            return Transcript(self.model.tokenizer.decode(reading.said), tuple(reading.hypotheses))

    def _language(self, mel: np.ndarray, spans: SpanRecorder) -> int:
        """That of the first thirty seconds is taken to be that of the whole."""
        encoded = self._encode(mel[:, :WINDOW_FRAMES], spans)
        with spans.span("decoder"):
            return self.decoder.languages(encoded)[0]

    def _encode(self, window: np.ndarray, spans: SpanRecorder) -> EncoderOutput:
        batch = FeatureBatch(np.ascontiguousarray(window)[None], np.array([WINDOW_FRAMES]))
        with spans.span("encoder"):
            encoded = self.parts.encoder.encode(batch)
            self.model.synchronize()
        return encoded

    def open_stream(self) -> Stream:
        return self.parts.open_stream()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self.parts.warm_up([_WINDOW_S] if list(lengths_s) else [])

    def evidence(self) -> Evidence:
        return {
            **self.parts.evidence(),
            "long_form": {"method": "sequential", "windows": self._windows},
        }


class _Reading:
    """How far a recording has been read, and what was said: the state of ``whisper.transcribe``."""

    def __init__(self, model: AttentionModel, mel: np.ndarray) -> None:
        self._model, self._mel = model, mel
        self._content: int = mel.shape[1] - WINDOW_FRAMES  # what follows is silence for the last window
        self._seek = 0  # in frames
        self._tokens = list(model.rules.before)
        self._prompt_from = 0
        self.hypotheses: list[Hypothesis] = []

    @property
    def going(self) -> bool:
        return self._seek < self._content

    @property
    def prompt(self) -> list[int]:
        return self._tokens[self._prompt_from :]

    @property
    def said(self) -> list[int]:
        return self._tokens[len(self._model.rules.before) :]

    @property
    def _size(self) -> int:
        """Frames of the next window's sound."""
        return min(WINDOW_FRAMES, self._content - self._seek)

    def window(self) -> np.ndarray:
        """``[F, 3000]``, zero beyond the recording's end."""
        heard = self._mel[:, self._seek : self._seek + self._size]
        return np.pad(heard, ((0, 0), (0, WINDOW_FRAMES - heard.shape[1])))

    def take(self, found: Found) -> None:
        """Keep what the window says, and go on where it stopped saying."""
        from variants.decoder.attention.search import silent

        said: tuple[int, ...] = ()
        if silent(self._model, found):
            self._seek += self._size
        else:
            said = self._keep(found.tokens)
        self.hypotheses.append(Hypothesis(said))

    def _keep(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        stretches, advance = self._cut(tokens)
        self._seek += advance
        kept = tuple(token for stretch in stretches if self._has_text(stretch) for token in stretch)
        self._tokens += kept
        if not self._model.options.condition_on_previous_text:
            self._prompt_from = len(self._tokens)
        return kept

    def _cut(self, tokens: tuple[int, ...]) -> tuple[list[tuple[int, ...]], int]:
        """The stretches between pairs of timestamps, and the frames to go on by: to the last timestamp of a
        pair, for what is after it is unfinished, or past the window where the text ends with one."""
        begin = self._model.rules.timestamp_begin
        times = [token >= begin for token in tokens]
        cuts = [at + 1 for at, (one, next_) in enumerate(pairwise(times)) if one and next_]
        if not cuts:
            return [tokens], self._size
        closed = times[-2:] == [False, True]
        ends = [*cuts, len(tokens)] if closed else cuts
        stretches = [tokens[start:end] for start, end in pairwise([0, *ends])]
        last = tokens[ends[-1] - 1] - begin
        return stretches, self._size if closed else last * _FRAMES_PER_TIMESTAMP

    def _has_text(self, stretch: tuple[int, ...]) -> bool:
        """A stretch of no length or without words is left out."""
        begin, end = self._model.rules.timestamp_begin, self._model.rules.end
        times = [token for token in stretch if token >= begin]
        empty = len(times) > 1 and stretch[0] == stretch[-1]
        return not empty and bool(self._model.tokenizer.decode([each for each in stretch if each < end]))


def hearing(model: AttentionModel, parts: EncoderDecoder) -> Packed | Sequential:
    """By ``model.options.long_form``. Raises ``UsageError`` where it needs what was switched off."""
    if model.options.long_form == "packed":
        return Packed(parts)
    if not model.options.timestamps:
        raise UsageError(
            "model.options.long_form=sequential goes on where the last timestamp was: set "
            "model.options.timestamps=true"
        )
    return Sequential(parts, model, parts.decoder)  # type: ignore[arg-type]  # decoders of this family
