"""A real model with its parts: batches of similar length, spans, evidence and live streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from harness.corpus.speech import VOICES, speak
from harness.errors import RequestError, UsageError
from harness.protocols import Segment, Stream, Transcript
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import resample
from tests.variants.eager_parts import eager_parts
from variants.batching.types import Inference
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder, batches
from variants.serving.window import StreamingOptions

RATE = 16_000
TEXT = "please tell the driver that we are going to wait at the northern gate of the station until nine"


@pytest.fixture(scope="module")
def model() -> TdtModel:
    return build(ModelOptions(name="parakeet_tiny", device="cpu", seed=2))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return resample(speak(TEXT, VOICES["gb_female"]), sample_rate=RATE, quality="HQ").samples


def make_engine(model: TdtModel, max_batch: int = 3, **options: Any) -> EncoderDecoder:
    return eager_parts(dataclasses.replace(model, options=StreamingOptions(**options)), max_batch)


def segments_of(*clips: np.ndarray) -> list[Segment]:
    return [Segment(clip, RATE, 0.0) for clip in clips]


def transcribe(
    parts: EncoderDecoder, segments: list[Segment], spans: SpanRecorder | None = None
) -> Transcript:
    (transcript,) = parts.transcribe([segments], spans or SpanRecorder())
    return transcript


def test_is_what_a_batching_choice_computes_with(model: TdtModel) -> None:
    assert isinstance(make_engine(model), Inference)


def test_segments_keep_their_order_whatever_the_batching(model: TdtModel, speech: np.ndarray) -> None:
    lengths = (30_000, 8_000, 64_000, 16_000, 48_000)
    segments = segments_of(*(speech[1000 * row :][:length] for row, length in enumerate(lengths)))
    alone = [transcribe(make_engine(model), [segment]) for segment in segments]
    together = transcribe(make_engine(model, max_batch=2), segments)
    assert [one.hypotheses[0] for one in alone] == list(together.hypotheses)
    assert together.text == " ".join(one.text for one in alone if one.text)
    assert together.text


def test_rows_of_unlike_lengths_are_encoded_apart_and_decoded_together(
    model: TdtModel, speech: np.ndarray
) -> None:
    segments = segments_of(speech, speech[:16_000], speech[:15_000])
    parts = dataclasses.replace(make_engine(model), call_frames=180)
    spans = SpanRecorder()
    together = transcribe(parts, segments, spans)
    alone = [transcribe(make_engine(model), [segment]) for segment in segments]
    assert [one.hypotheses[0] for one in alone] == list(together.hypotheses)
    assert [span.name for span in spans.spans] == [*["features", "encoder"] * 2, "decoder", "text"]
    assert parts.evidence()["padding"]["share"] < padding_at_once(model, segments) / 4


def padding_at_once(model: TdtModel, segments: list[Segment]) -> float:
    """The share of padding where all are encoded at once."""
    parts = make_engine(model)
    transcribe(parts, segments)
    return float(parts.evidence()["padding"]["share"])


def test_no_speech_is_an_empty_transcript(model: TdtModel) -> None:
    transcript = transcribe(make_engine(model), [])
    assert (transcript.text, transcript.hypotheses) == ("", ())


def test_each_batch_has_its_spans(model: TdtModel, speech: np.ndarray) -> None:
    spans = SpanRecorder()
    transcribe(make_engine(model, max_batch=2), segments_of(speech, speech, speech), spans)
    assert [span.name for span in spans.spans] == [*["features", "encoder", "decoder"] * 2, "text"]


def test_the_encoder_span_waits_for_the_device(model: TdtModel, speech: np.ndarray) -> None:
    waits: list[str | None] = []
    spans = SpanRecorder()
    engine = make_engine(dataclasses.replace(model, synchronize=lambda: waits.append(spans.open_name)))
    transcribe(engine, segments_of(speech), spans)
    assert waits == ["encoder"]


def test_batches_group_neighbours_in_length() -> None:
    assert list(batches([50, 10, 40, 20, 30], 2)) == [[1, 3], [4, 2], [0]]
    assert list(batches([], 2)) == []


def test_segments_of_several_recordings_share_batches_and_come_back_to_theirs(
    model: TdtModel, speech: np.ndarray
) -> None:
    recordings = [segments_of(speech[:30_000], speech[:100]), [], segments_of(speech[5_000:64_000])]
    spans = SpanRecorder()
    together = make_engine(model).transcribe(recordings, spans)
    alone = [transcribe(make_engine(model), segments) for segments in recordings]
    assert together == alone
    assert [len(each.hypotheses) for each in together] == [1, 0, 1]  # 100 samples are less than a frame
    assert [span.name for span in spans.spans] == ["features", "encoder", "decoder", "text"]


def test_samples_at_another_rate_are_refused(model: TdtModel) -> None:
    segment = Segment(np.zeros(8_000, np.float32), 8_000, 0.0)
    with pytest.raises(UsageError, match=r"frontend\.sample_rate=8000: .* 16000 Hz"):
        transcribe(make_engine(model), [segment])


def test_warm_up_visits_every_length_and_one_full_batch(model: TdtModel) -> None:
    engine = make_engine(model)
    engine.warm_up([2.0, 0.5, 2.0])
    shapes: Mapping[str, int] = engine.evidence()["encoder"]["shapes"]
    assert shapes == {"1x50": 1, "1x200": 1, "3x50": 1}


def test_evidence_names_the_weights_and_counts_the_work(model: TdtModel, speech: np.ndarray) -> None:
    engine = make_engine(model)
    transcribe(engine, segments_of(speech))
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
    offline = transcribe(engine, segments_of(speech))
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
