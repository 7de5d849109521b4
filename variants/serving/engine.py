"""The engine of an encoder and a decoder: segments in, transcript out, each part in its span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from harness.protocols import (
    Decoder,
    Encoder,
    Evidence,
    FeatureBatch,
    Hypothesis,
    Segment,
    SegmentFeatures,
    ShapePlan,
    Stream,
    Transcript,
)
from harness.spans import SpanRecorder
from variants.frontend.config import FeatureConfig
from variants.models.features import LogMel
from variants.serving.window import RollingStream, StreamingOptions

SAMPLE_RATE = 16_000
"""Of live streams, in hertz: what the models were trained on."""


class TextDecoder(Protocol):
    """Token ids to text."""

    def decode(self, tokens: Sequence[int]) -> str: ...


class EngineModel(Protocol):
    """What the engine has to know of a model; encoders and decoders know more."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> TextDecoder: ...

    @property
    def feature_bins(self) -> int: ...

    @property
    def hop_s(self) -> float: ...

    @property
    def frame_s(self) -> float: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def options(self) -> StreamingOptions: ...

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        ...


class AsrEngine:
    """``harness.protocols.Engine`` for one model. Not safe for concurrent calls: a topology that has
    several threads serializes them, as one device would."""

    def __init__(self, model: EngineModel, encoder: Encoder, decoder: Decoder, plan: ShapePlan) -> None:
        self._model = model
        self._encoder = encoder
        self._decoder = decoder
        self._plan = plan
        self._log_mel = LogMel(FeatureConfig(n_mels=model.feature_bins, hop_s=model.hop_s), SAMPLE_RATE)

    def transcribe(self, segments: Sequence[SegmentFeatures], spans: SpanRecorder) -> Transcript:
        """Encode and decode ``segments`` in batches of similar length; the text joins them in order."""
        hypotheses: list[Hypothesis] = [Hypothesis(())] * len(segments)
        for rows in batches([segment.values.shape[1] for segment in segments], self._plan.max_batch):
            with spans.span("encoder"):
                encoded = self._encoder.encode(pad([segments[row].values for row in rows]))
                # Without it the encoder's device time would be charged to the decoder, which waits for it.
                self._model.synchronize()
            with spans.span("decoder"):
                decoded = self._decoder.decode(encoded)
            for row, hypothesis in zip(rows, decoded.hypotheses, strict=True):
                hypotheses[row] = hypothesis
        with spans.span("text"):
            texts = [self._model.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses]
            return Transcript(" ".join(filter(None, texts)), tuple(hypotheses))

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """One segment of each length, and one full batch of the shortest.

        Variants that build per shape do so from the plan. Full batches of every length are left to the
        runner's passes over real requests: here they would cost minutes on a CPU.
        """
        frames = sorted({max(1, round(length_s / self._model.hop_s)) for length_s in lengths_s})
        rng = np.random.default_rng(0)
        clips = [self._noise(rng, count) for count in frames]
        for clip in clips:
            self.transcribe([clip], SpanRecorder())
        if clips and self._plan.max_batch > 1:
            self.transcribe([clips[0]] * self._plan.max_batch, SpanRecorder())

    def _noise(self, rng: np.random.Generator, frames: int) -> SegmentFeatures:
        """Normalized features have zero mean and unit deviation, and so has this."""
        return SegmentFeatures(rng.standard_normal((self._model.feature_bins, frames), dtype=np.float32), 0.0)

    def open_stream(self) -> Stream:
        """A rolling window with the contexts of ``model.options`` (see ``variants.serving.window``)."""
        model = self._model
        return RollingStream(
            encoder=self._encoder,
            decoder=self._decoder,
            features=self._features,
            text=model.tokenizer.decode,
            contexts=model.options.in_samples(round(model.frame_s * SAMPLE_RATE), SAMPLE_RATE),
        )

    def _features(self, samples: np.ndarray) -> np.ndarray | None:
        found = self._log_mel([Segment(samples, SAMPLE_RATE, 0.0)])
        return found[0].values if found else None

    def evidence(self) -> Evidence:
        return {
            "model": {"name": self._model.name, **self._model.provenance},
            "encoder": self._encoder.evidence(),
            "decoder": self._decoder.evidence(),
        }


def batches(lengths: Sequence[int], max_batch: int) -> Iterator[list[int]]:
    """Indices in groups of at most ``max_batch``, neighbours in length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), max_batch):
        yield order[start : start + max_batch]


def pad(features: Sequence[np.ndarray]) -> FeatureBatch:
    """Stack ``[F, T]`` arrays to ``[B, F, T_max]``, zero beyond each length."""
    lengths = np.array([clip.shape[1] for clip in features], dtype=np.int64)
    if len(features) == 1:
        return FeatureBatch(np.ascontiguousarray(features[0], dtype=np.float32)[None], lengths)
    values = np.zeros((len(features), features[0].shape[0], int(lengths.max())), dtype=np.float32)
    for row, clip in enumerate(features):
        values[row, :, : clip.shape[1]] = clip
    return FeatureBatch(values, lengths)
