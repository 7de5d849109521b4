"""A model with its encoder and decoder: segments of one or many recordings in, transcripts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import UsageError
from harness.protocols import (
    Decoder,
    Encoder,
    Evidence,
    Hypothesis,
    Segment,
    ShapePlan,
    Stream,
    Transcript,
)
from harness.spans import SpanRecorder
from variants.models.types import Model


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
    padding: Padding = field(default_factory=Padding)

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        """All segments in batches of similar length, whichever recording they are of; each recording's
        text joins its own in order. Segments shorter than a frame of features have no hypothesis."""
        heard = [[each for each in segments if self._frames(each)] for segments in recordings]
        hypotheses = iter(self._hypotheses([each for segments in heard for each in segments], spans))
        found = [tuple(next(hypotheses) for _ in segments) for segments in heard]
        with spans.span("text"):
            return [Transcript(self._text(each), each) for each in found]

    def _hypotheses(self, segments: Sequence[Segment], spans: SpanRecorder) -> list[Hypothesis]:
        found = [Hypothesis(())] * len(segments)
        for rows in batches([self._frames(each) for each in segments], self.plan.max_batch):
            with spans.span("features"):
                features = self.model.features([segments[row] for row in rows])  # [B, F, T]
            self.padding.count(features.lengths)
            with spans.span("encoder"):
                encoded = self.encoder.encode(features)  # [B, T', D]
                # Without it the encoder's device time would be charged to the decoder, which waits for it.
                self.model.synchronize()
            with spans.span("decoder"):
                decoded = self.decoder.decode(encoded)
            for row, hypothesis in zip(rows, decoded.hypotheses, strict=True):
                found[row] = hypothesis
        return found

    def _frames(self, segment: Segment) -> int:
        if segment.sample_rate != self.model.sample_rate:
            raise UsageError(
                f"frontend.sample_rate={segment.sample_rate}: model={self.model.name} hears samples at "
                f"{self.model.sample_rate} Hz"
            )
        return self.model.features.frames(len(segment.samples))

    def _text(self, hypotheses: Sequence[Hypothesis]) -> str:
        return " ".join(filter(None, (self.model.tokenizer.decode(each.tokens) for each in hypotheses)))

    def open_stream(self) -> Stream:
        return self.model.open_stream(self.encoder, self.decoder)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """One segment of each length, and one full batch of the shortest.

        Variants that build per shape do so from the plan. Full batches of every length are left to the
        runner's passes over real requests: here they would cost minutes on a CPU.
        """
        rng = np.random.default_rng(0)
        clips = [self._noise(rng, length_s) for length_s in sorted(set(lengths_s))]
        for clip in clips:
            self.transcribe([[clip]], SpanRecorder())
        if clips and self.plan.max_batch > 1:
            self.transcribe([[clips[0]] * self.plan.max_batch], SpanRecorder())

    def _noise(self, rng: np.random.Generator, length_s: float) -> Segment:
        rate = self.model.sample_rate
        samples = rng.standard_normal(max(1, round(length_s * rate)), dtype=np.float32)
        return Segment(0.1 * samples, rate, 0.0)

    def evidence(self) -> Evidence:
        return {
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
