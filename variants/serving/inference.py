"""A model with its encoder and decoder: segments of one or many recordings in, transcripts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from harness.protocols import (
    Decoder,
    Encoder,
    EncoderOutput,
    Evidence,
    Hypothesis,
    Segment,
    ShapePlan,
    Stream,
    TextSegment,
    Transcript,
)
from harness.spans import SpanRecorder
from variants.models.types import Model
from variants.serving.grouping import groups, joined
from variants.serving.pool import OnlyStream, StreamPool
from variants.serving.utterances import Bounds, HostUtterances, Utterances


class DeviceFrontend(Protocol):
    """What is left of the front end for the process that holds the model."""

    def __call__(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> Utterances:
        """Each recording is one segment, as it was decoded; stages are in ``spans``."""
        ...

    def warm_up(self, lengths_s: Sequence[float]) -> None:
        """Visit every shape of recordings up to the longest."""
        ...

    def evidence(self) -> Evidence: ...


@dataclass
class Padding:
    """Feature frames that were encoded: those of speech, and those that fill the rows of a batch."""

    batches: int = 0
    valid: int = 0
    padded: int = 0

    def count(self, lengths: np.ndarray) -> None:
        self.batches += 1
        self.valid += int(lengths.sum())
        self.padded += len(lengths) * int(lengths.max())

    def evidence(self) -> Evidence:
        share = 1.0 - self.valid / self.padded if self.padded else 0.0
        return {"batches": self.batches, "frames": self.valid, "share": share}


@dataclass(frozen=True)
class EncoderDecoder:
    """See ``variants.batching.types.Inference``."""

    model: Model
    encoder: Encoder
    decoder: Decoder
    plan: ShapePlan
    frontend: DeviceFrontend | None = None
    """None where recordings come in the segments that are transcribed."""
    call_frames: int | None = None
    """What a call of the encoder costs, in frames: rows of a batch are encoded in groups for which that pays
    (``variants.serving.grouping``). None: all at once."""
    padding: Padding = field(default_factory=Padding)

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        """All segments in batches of similar length, whichever recording they are of; each recording's
        text joins its own in order. Segments shorter than a frame of features have no hypothesis."""
        if self.frontend is None:
            return self._transcripts(HostUtterances.of(recordings, self.model), spans)
        return self._transcripts(self.frontend(recordings, spans), spans)

    def _transcripts(self, heard: Utterances, spans: SpanRecorder) -> list[Transcript]:
        utterances = zip(self._hypotheses(heard, spans), heard.places, strict=True)
        found = [list(islice(utterances, count)) for count in heard.counts]
        with spans.span("text"):
            of_each = zip(found, heard.bounds, strict=True)
            return [self._transcript(each, bounds) for each, bounds in of_each]

    def _hypotheses(self, heard: Utterances, spans: SpanRecorder) -> list[Hypothesis]:
        frames = heard.frames
        found = [Hypothesis(())] * len(frames)
        for rows in batches(frames, self.plan.max_batch):
            encoded = [self._encoded(heard, rows[group], spans) for group in self._groups(frames, rows)]
            with spans.span("decoder"):
                decoded = self.decoder.decode(joined(encoded))
            for row, hypothesis in zip(rows, decoded.hypotheses, strict=True):
                found[row] = hypothesis
        return found

    def _groups(self, frames: Sequence[int], rows: Sequence[int]) -> list[slice]:
        if self.call_frames is None:
            return [slice(len(rows))]
        return groups([frames[row] for row in rows], self.call_frames)

    def _encoded(self, heard: Utterances, rows: Sequence[int], spans: SpanRecorder) -> EncoderOutput:
        with spans.span("features"):
            features = heard.features(rows)  # [B, F, T]
            self._finish_features()
        self.padding.count(features.lengths)
        with spans.span("encoder"):
            encoded = self.encoder.encode(features)  # [B, T', D]
            # Without it the encoder's device time would be charged to the decoder, which waits for it.
            self.model.synchronize()
        return encoded

    def _finish_features(self) -> None:
        """On a device their time would be charged to the encoder, and the front end's stages be compared
        with a host's that were finished."""
        if self.frontend is not None:
            self.model.synchronize()

    def _transcript(
        self, utterances: Sequence[tuple[Hypothesis, tuple[float, float]]], bounds: Bounds | None
    ) -> Transcript:
        decode = self.model.tokenizer.decode
        segments = tuple(TextSegment(*place, decode(hypothesis.tokens)) for hypothesis, place in utterances)
        text = " ".join(each.text for each in segments if each.text)
        return Transcript(text, tuple(hypothesis for hypothesis, _ in utterances), segments, bounds)

    def open_stream(self) -> Stream:
        return OnlyStream(self.open_pool(1))

    def open_pool(self, slots: int) -> StreamPool:
        return self.model.open_pool(self.encoder, self.decoder, slots)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """One segment of each length, and one full batch of the shortest.

        Variants that build per shape do so from the plan. Full batches of every length are left to the
        runner's passes over real requests: here they would cost minutes on a CPU.
        """
        rng = np.random.default_rng(0)
        clips = [self._noise(rng, length_s) for length_s in sorted(set(lengths_s))]
        full = [[clips[0]] * self.plan.max_batch] if clips and self.plan.max_batch > 1 else []
        if self.frontend is not None:
            self.frontend.warm_up([len(each.samples) / each.sample_rate for each in clips])
        # Past any detector, which finds no speech in noise.
        for segments in [*([each] for each in clips), *full]:
            self._transcripts(HostUtterances.of([segments], self.model), SpanRecorder())

    def _noise(self, rng: np.random.Generator, length_s: float) -> Segment:
        rate = self.model.sample_rate
        samples = rng.standard_normal(max(1, round(length_s * rate)), dtype=np.float32)
        return Segment(0.1 * samples, rate, 0.0)

    def evidence(self) -> Evidence:
        front = {} if self.frontend is None else {"frontend": self.frontend.evidence()}
        return {
            **front,
            "model": {"name": self.model.name, **self.model.provenance},
            "encoder": self.encoder.evidence(),
            "decoder": self.decoder.evidence(),
            "padding": self.padding.evidence(),
        }


def batches(lengths: Sequence[int], max_batch: int) -> Iterator[list[int]]:
    """Indices in groups of at most ``max_batch``, neighbours in length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), max_batch):
        yield order[start : start + max_batch]
