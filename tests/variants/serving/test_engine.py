"""The engine over a real model: batching, spans, evidence and live streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from harness.audio.resample import resample
from harness.corpus.speech import VOICES, speak
from harness.errors import RequestError, UsageError
from harness.protocols import Engine, Segment, SegmentFeatures, ShapePlan, Stream
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from variants.decoder import cpu_synced
from variants.encoder import eager
from variants.frontend.config import FeatureConfig
from variants.models.features import LogMel
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel
from variants.serving.engine import AsrEngine, batches, pad
from variants.serving.window import StreamingOptions

RATE = 16_000
TEXT = "please tell the driver that we are going to wait at the northern gate of the station until nine"


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return build(ModelOptions(name="parakeet_tiny", device="cpu", seed=2))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return resample(speak(TEXT, VOICES["gb_female"]), sample_rate=RATE, quality="HQ").samples


def make_engine(model: TdtModel, max_batch: int = 3, **options: Any) -> AsrEngine:
    plan = ShapePlan((5.0,), max_batch)
    configured = dataclasses.replace(model, options=StreamingOptions(**options))
    return AsrEngine(
        configured, eager.build(model, NoOptions(), plan), cpu_synced.build(model, NoOptions(), plan), plan
    )


def features_of(*clips: np.ndarray) -> list[SegmentFeatures]:
    return LogMel(FeatureConfig(), RATE)([Segment(clip, RATE, 0.0) for clip in clips])


def test_is_an_engine(model: TdtModel) -> None:
    assert isinstance(make_engine(model), Engine)


def test_segments_keep_their_order_whatever_the_batching(model: TdtModel, speech: np.ndarray) -> None:
    lengths = (30_000, 8_000, 64_000, 16_000, 48_000)
    segments = features_of(*(speech[1000 * row :][:length] for row, length in enumerate(lengths)))
    alone = [make_engine(model).transcribe([segment], SpanRecorder()) for segment in segments]
    together = make_engine(model, max_batch=2).transcribe(segments, SpanRecorder())
    assert [one.hypotheses[0] for one in alone] == list(together.hypotheses)
    assert together.text == " ".join(one.text for one in alone if one.text)
    assert together.text


def test_no_speech_is_an_empty_transcript(model: TdtModel) -> None:
    transcript = make_engine(model).transcribe([], SpanRecorder())
    assert (transcript.text, transcript.hypotheses) == ("", ())


def test_each_batch_has_its_spans(model: TdtModel, speech: np.ndarray) -> None:
    spans = SpanRecorder()
    make_engine(model, max_batch=2).transcribe(features_of(speech, speech, speech), spans)
    assert [span.name for span in spans.spans] == ["encoder", "decoder", "encoder", "decoder", "text"]


def test_the_encoder_span_waits_for_the_device(model: TdtModel, speech: np.ndarray) -> None:
    waits: list[str | None] = []
    spans = SpanRecorder()
    engine = make_engine(dataclasses.replace(model, synchronize=lambda: waits.append(spans.open_name)))
    engine.transcribe(features_of(speech), spans)
    assert waits == ["encoder"]


def test_batches_group_neighbours_in_length() -> None:
    assert list(batches([50, 10, 40, 20, 30], 2)) == [[1, 3], [4, 2], [0]]
    assert list(batches([], 2)) == []


def test_padding_is_zero_beyond_each_length() -> None:
    batch = pad([np.ones((4, 3), np.float32), np.ones((4, 5), np.float32)])
    assert batch.values.shape == (2, 4, 5)
    assert batch.lengths.tolist() == [3, 5]
    assert batch.values[0, :, 3:].sum() == 0


def test_warm_up_visits_every_length_and_one_full_batch(model: TdtModel) -> None:
    engine = make_engine(model)
    engine.warm_up([2.0, 0.5, 2.0])
    shapes: Mapping[str, int] = engine.evidence()["encoder"]["shapes"]
    assert shapes == {"1x50": 1, "1x200": 1, "3x50": 1}


def test_evidence_names_the_weights_and_counts_the_work(model: TdtModel, speech: np.ndarray) -> None:
    engine = make_engine(model)
    engine.transcribe(features_of(speech), SpanRecorder())
    evidence = engine.evidence()
    assert evidence["model"]["name"] == "parakeet_tiny"
    assert evidence["model"]["weights_hash"] == model.provenance["weights_hash"]
    assert evidence["encoder"]["calls"] == 1
    assert evidence["decoder"]["utterances"] == 1


# ---------------------------------------------------------------- live streams


def push_all(stream: Stream, samples: np.ndarray, step: int) -> list[str]:
    texts = (stream.push(samples[start : start + step]) for start in range(0, len(samples), step))
    return [text for text in texts if text is not None]


def test_with_context_around_everything_the_text_is_the_offline_text(
    model: TdtModel, speech: np.ndarray
) -> None:
    engine = make_engine(model, left_context_s=16.0, chunk_s=0.32, right_context_s=16.0)
    offline = engine.transcribe(features_of(speech), SpanRecorder())
    stream = engine.open_stream()
    assert push_all(stream, speech, 1600) == []
    assert stream.commit() == offline
    assert offline.text


def test_text_grows_while_audio_arrives(model: TdtModel, speech: np.ndarray) -> None:
    stream = make_engine(model, left_context_s=1.6, chunk_s=0.32, right_context_s=0.32).open_stream()
    texts = push_all(stream, speech, 1600)
    final = stream.commit()
    assert len(texts) > 3
    assert all(
        later.startswith(earlier) for earlier, later in zip(texts, [*texts[1:], final.text], strict=True)
    )
    frames = final.hypotheses[0].frames
    assert list(frames) == sorted(frames)
    assert frames[-1] < len(speech) / RATE / model.frame_s


def test_the_size_of_pushes_does_not_matter(model: TdtModel, speech: np.ndarray) -> None:
    def final(step: int) -> object:
        stream = make_engine(model, left_context_s=1.6, chunk_s=0.32, right_context_s=0.32).open_stream()
        push_all(stream, speech, step)
        return stream.commit()

    assert final(320) == final(4001) == final(len(speech))


def test_streams_do_not_disturb_each_other(model: TdtModel, speech: np.ndarray) -> None:
    engine = make_engine(model, left_context_s=1.6, chunk_s=0.32, right_context_s=0.32)
    alone = engine.open_stream()
    push_all(alone, speech, 1600)
    one, other = engine.open_stream(), engine.open_stream()
    for start in range(0, len(speech), 1600):
        one.push(speech[start : start + 1600])
        other.push(speech[::-1][start : start + 1600])
    assert one.commit() == alone.commit()


def test_a_stream_without_audio(model: TdtModel) -> None:
    stream = make_engine(model).open_stream()
    assert stream.push(np.zeros(0, np.float32)) is None
    assert stream.commit().text == ""
    with pytest.raises(RequestError, match="committed"):
        stream.push(np.zeros(10, np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_s": 0.1}, "model.options.chunk_s=0.1 .*0.08 s"),
        ({"left_context_s": 0.1}, "model.options.left_context_s=0.1 .*0.08 s"),
    ],
)
def test_impossible_contexts_are_refused(model: TdtModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_engine(model, **options).open_stream()
