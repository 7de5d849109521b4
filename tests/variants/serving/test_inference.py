"""A real model with its parts: batches of similar length, spans, evidence and live streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from harness.corpus.speech import VOICES, speak
from harness.errors import RequestError, UsageError
from harness.measure.wer import count_errors
from harness.protocols import EncoderOutput, Segment, Stream, Transcript
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import resample
from tests.variants.eager_parts import eager_parts
from variants.batching.types import Inference
from variants.models.options import ModelOptions
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder, batches
from variants.serving.window import Endpointing, StreamingOptions

RATE, FRAME = 16_000, 1_280
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
    assert [each.place for each in recordings[0][:1]] == [each[:2] for each in together[0].segments]
    assert [each.text for transcript in together for each in transcript.segments] == [
        transcript.text for transcript in together if transcript.text
    ]
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
    said = stream.commit()
    assert (said.text, said.hypotheses) == (offline.text, offline.hypotheses)
    assert offline.text


def heard_as_clips(
    parts: EncoderDecoder, samples: np.ndarray, left: int, chunk: int, right: int
) -> list[int]:
    """The tokens of a stream whose every window has features of its own, as a recording has."""
    tokens: list[int] = []
    state = None
    for start in range(0, len(samples), chunk):
        is_last = len(samples) - start < chunk + right
        end = len(samples) if is_last else start + chunk + right
        first = max(0, start - left)
        encoded = parts.encoder.encode(parts.model.features(segments_of(samples[first:end])))
        begin = (start - first) // FRAME
        count = int(encoded.lengths[0]) - begin if is_last else chunk // FRAME
        states = EncoderOutput(encoded.values[:, begin : begin + count], torch.tensor([count]))
        decoded = parts.decoder.decode(states, state)
        tokens, state = [*tokens, *decoded.hypotheses[0].tokens], decoded.state
        if is_last:
            break
    return tokens


@pytest.mark.parametrize(("left", "chunk", "right"), [(160, 8, 8), (40, 8, 8), (40, 4, 4)])
def test_features_computed_once_give_the_text_of_features_of_every_window(
    speech: np.ndarray, left: int, chunk: int, right: int
) -> None:
    trained = build(ModelOptions(name="parakeet_tiny", device="cpu", weights="embedded"))
    left_s, chunk_s, right_s = (frames * trained.frame_s for frames in (left, chunk, right))
    engine = make_engine(trained, left_context_s=left_s, chunk_s=chunk_s, right_context_s=right_s)
    stream = engine.open_stream()
    push_all(stream, speech, 1600)
    expected = heard_as_clips(engine, speech, left * FRAME, chunk * FRAME, right * FRAME)
    assert list(stream.commit().hypotheses[0].tokens) == expected
    assert len(expected) > 20


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


# ---------------------------------------------------------------- keys, values and tails that are kept


def test_the_first_chunk_of_a_cached_stream_is_that_of_a_window(model: TdtModel, speech: np.ndarray) -> None:
    """Nothing was before it, so nothing is approximated: the same frames, subsampled and in sight."""
    contexts = {"left_context_s": 4.8, "chunk_s": 3.2, "right_context_s": 0.32}
    streams = [make_engine(model, method=method, **contexts).open_stream() for method in ("window", "cached")]
    window, cached = ([stream.push(speech[: 4 * RATE]), stream.commit()][0] for stream in streams)
    assert window == cached and window


def test_a_cached_stream_hears_nearly_what_a_window_does_at_the_cost_of_its_own_frames(
    speech: np.ndarray,
) -> None:
    trained = build(ModelOptions(name="parakeet_tiny", device="cpu", weights="embedded"))
    contexts = {"left_context_s": 4.8, "chunk_s": 0.64, "right_context_s": 0.64}
    words = {}
    for method in ("window", "cached"):
        stream = make_engine(trained, method=method, **contexts).open_stream()
        push_all(stream, speech, 1600)
        words[method] = stream.commit().text.split()
    errors = count_errors(" ".join(words["window"]), " ".join(words["cached"]))
    assert errors.total <= len(words["window"]) // 4
    pool = make_engine(trained, method="cached", **contexts).open_pool(1)
    slot = pool.open()
    while not pool.window(slot):
        pool.push(slot, speech[:1600])
    assert pool.window(slot) == round(1.28 * RATE)
    assert "approximation" in pool.evidence()["method"]


def test_a_cached_stream_needs_to_keep_a_chunk(model: TdtModel) -> None:
    engine = make_engine(model, method="cached", left_context_s=0.32, chunk_s=0.64)
    with pytest.raises(UsageError, match=r"left_context_s=0.32 .* model.options.chunk_s=0.64"):
        engine.open_pool(1)


# ---------------------------------------------------------------- utterances


@pytest.fixture(scope="module")
def two_turns(speech: np.ndarray) -> np.ndarray:
    """Somebody speaks, is silent for a second and a half, speaks again."""
    quiet = np.random.default_rng(1).normal(0.0, 1e-4, 3 * RATE // 2).astype(np.float32)
    return np.concatenate((speech, quiet, speech, quiet))


def detecting(silence_s: float) -> EncoderDecoder:
    trained = build(ModelOptions(name="parakeet_tiny", device="cpu", weights="embedded"))
    ends = Endpointing(silence_s=silence_s)
    return make_engine(trained, left_context_s=4.8, chunk_s=0.64, right_context_s=3.2, endpointing=ends)


def test_the_end_of_speech_ends_an_utterance_and_its_text_is_there_at_once(
    speech: np.ndarray, two_turns: np.ndarray
) -> None:
    """Before the right context could have come, and as if nobody had spoken before."""
    stream = detecting(0.5).open_stream()
    texts = push_all(stream, two_turns[: len(speech) + 12_800], 1600)  # 0.8 s of silence
    first = texts[-1]
    push_all(stream, two_turns[len(speech) + 12_800 :], 1600)
    final = stream.commit()
    by_itself = detecting(0.0).open_stream()
    push_all(by_itself, speech, 1600)
    assert first == by_itself.commit().text != ""
    assert final.text.startswith(f"{first} {' '.join(first.split()[:3])}")
    assert len(final.hypotheses) == 2


def test_how_the_sound_is_cut_does_not_move_the_end_of_an_utterance(two_turns: np.ndarray) -> None:
    def final(step: int) -> Transcript:
        stream = detecting(0.4).open_stream()
        push_all(stream, two_turns, step)
        return stream.commit()

    assert final(len(two_turns)) == final(333) == final(4001)


def test_without_detection_a_stream_is_one_utterance(two_turns: np.ndarray) -> None:
    stream = detecting(0.0).open_stream()
    push_all(stream, two_turns, 1600)
    assert len(stream.commit().hypotheses) == 1
