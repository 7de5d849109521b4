"""Recordings of any length, as windows of thirty seconds: packed, and as openai-whisper reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harness.errors import UnavailableError, UsageError
from harness.protocols import EncoderOutput, Hypothesis, Segment, ShapePlan, Transcript
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import RATE
from tests.variants.models.whisper.parts import SMALL, model, tiny_en
from tests.variants.models.whisper.test_features import sound
from variants import registry
from variants.decoder.attention.search import Found
from variants.models.whisper.architecture import TINY_EN
from variants.models.whisper.features import WINDOW_FRAMES, WINDOW_SAMPLES
from variants.models.whisper.model import AttentionModel
from variants.models.whisper.windows import Packed, Sequential, pack
from variants.serving.inference import EncoderDecoder

whisper = pytest.importorskip("whisper", reason="needs the extra whisper")


def inference(made: AttentionModel, max_batch: int = 2) -> Packed | Sequential:
    plan = ShapePlan((30.0,), max_batch)
    encoder, decoder = (
        registry.load(axis, name, made.family)(made, NoOptions(), plan)
        for axis, name in (("encoder", "eager"), ("decoder", "cpu_synced"))
    )
    return made.hearing(EncoderDecoder(made, encoder, decoder, plan))  # type: ignore[return-value]


def segment(seconds: float, start_s: float = 0.0) -> Segment:
    return Segment(np.full(round(seconds * RATE), start_s, np.float32), RATE, start_s)


# ---------------------------------------------------------------- packed


def test_segments_share_a_window_as_long_as_they_fit() -> None:
    segments = [
        segment(12.0, 0.0),
        segment(17.0, 13.0),
        segment(1.5, 31.0),
        segment(28.5, 40.0),
        segment(30.0, 70.0),
    ]
    windows = pack(segments)
    assert [each.start_s for each in windows] == [0.0, 31.0, 70.0]
    assert [len(each.samples) / RATE for each in windows] == [29.0, 30.0, 30.0]
    assert [each.place[1] for each in windows] == [30.0, 68.5, 100.0]  # pauses are left out of the samples
    np.testing.assert_array_equal(
        np.concatenate([each.samples for each in windows]),
        np.concatenate([each.samples for each in segments]),
    )
    assert pack([]) == []


def test_a_segment_that_no_window_holds_is_refused() -> None:
    with pytest.raises(UsageError, match="max_segment_s=30"):
        pack([segment(30.5)])


def test_windows_of_several_recordings_share_batches_and_keep_apart() -> None:
    made = model(max_tokens=12)
    parts = inference(made)
    recordings = [
        [Segment(sound(4.0), RATE, 0.0), Segment(sound(28.0), RATE, 5.0)],
        [],
        [Segment(0.3 * sound(2.0), RATE, 0.0), Segment(sound(1.0), RATE, 2.5)],
    ]
    spans = SpanRecorder()
    together = parts.transcribe(recordings, spans)
    assert [len(each.hypotheses) for each in together] == [2, 0, 1]
    alone = [parts.transcribe([each], SpanRecorder())[0] for each in recordings]
    assert [each.text for each in together] == [each.text for each in alone]
    assert {span.name for span in spans.spans} == {"segment", "features", "encoder", "decoder", "text"}
    long_form = parts.evidence()["long_form"]
    assert (long_form["method"], long_form["windows"], long_form["segments"]) == ("packed", 6, 8)


def test_there_are_no_live_streams() -> None:
    with pytest.raises(UnavailableError, match="windows of 30 s"):
        inference(model()).open_stream()


# ---------------------------------------------------------------- sequential


class Scripted:
    """A model that says what it was told to, window by window, and keeps what it was asked."""

    def __init__(self, script: Sequence[tuple[list[int], float, float]]) -> None:
        self._script = list(script)
        self.prompts: list[list[int]] = []
        self.windows: list[np.ndarray] = []

    def say(self, prompt: Sequence[int], window: np.ndarray) -> tuple[list[int], float, float]:
        self.prompts.append(list(prompt))
        self.windows.append(np.asarray(window))
        return self._script[(len(self.prompts) - 1) % len(self._script)]


class ForOpenai(Scripted):
    """As ``whisper.transcribe`` drives a model."""

    is_multilingual, num_languages = False, 99

    def __init__(self, made: AttentionModel, script: Sequence[tuple[list[int], float, float]]) -> None:
        super().__init__(script)
        self.device, self.dims = made.device, made.modules.dims

    def decode(self, window: Any, options: Any) -> Any:
        tokens, no_speech, log_probability = self.say(options.prompt, window)
        return whisper.DecodingResult(
            None, "en", tokens=tokens, no_speech_prob=no_speech, avg_logprob=log_probability,
            temperature=0.0, compression_ratio=1.0,
        )  # fmt: skip


class ForOurs(Scripted):
    """As ``Sequential`` drives an encoder and a decoder."""

    def encode(self, batch: Any) -> EncoderOutput:
        return EncoderOutput(batch.values, batch.lengths)

    def search(self, encoded: EncoderOutput, previous: Sequence[int], language: int | None) -> list[Found]:
        assert language is None
        tokens, no_speech, log_probability = self.say(previous, np.asarray(encoded.values)[0])
        return [Found(tuple(tokens), no_speech, log_probability, -1)]


def drawn(rng: np.random.Generator, begin: int) -> tuple[list[int], float, float]:
    """Words between timestamps, with and without ends, empty stretches and silence."""
    tokens: list[int] = []
    at = int(rng.integers(50))
    for _ in range(rng.integers(5)):
        later = at + int(rng.integers(400)) * int(rng.random() < 0.9)
        tokens += [begin + at, *rng.integers(1000, 9000, rng.integers(4)).tolist(), begin + min(later, 1500)]
        at = min(later, 1500)
    unfinished = rng.random() < 0.5
    tokens += [begin + at, *rng.integers(1000, 9000, 3).tolist()] if unfinished else []
    return tokens[rng.integers(2) :], float(rng.random()), float(-2 * rng.random())


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("prompt", ["", "names like Ada"])
def test_every_window_begins_where_openai_whisper_begins_it(conditioned: bool, prompt: str) -> None:
    made = model(long_form="sequential", condition_on_previous_text=conditioned, initial_prompt=prompt)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        script = [drawn(rng, made.rules.timestamp_begin) for _ in range(7)]
        script.append(([made.rules.timestamp_begin, 1234], 0.0, 0.0))  # no script stands still
        samples = rng.standard_normal(round(rng.uniform(0.05, 80.0) * RATE)).astype(np.float32)
        theirs, ours = ForOpenai(made, script), ForOurs(script)
        expected = whisper.transcribe(
            theirs, samples, temperature=0.0, fp16=False, language="en", initial_prompt=prompt or None,
            condition_on_previous_text=conditioned,
        )  # fmt: skip
        parts = EncoderDecoder(made, ours, ours, ShapePlan((30.0,), 1))  # type: ignore[arg-type]
        reading = Sequential(parts, made, ours)  # type: ignore[arg-type]
        (found,) = reading.transcribe([[Segment(samples, RATE, 0.0)]], SpanRecorder())
        assert ours.prompts == theirs.prompts
        for mine, other in zip(ours.windows, theirs.windows, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)
        assert found.text == expected["text"].strip()


def test_sequential_reading_needs_timestamps() -> None:
    with pytest.raises(UsageError, match=r"model\.options\.timestamps=true"):
        inference(model(long_form="sequential", timestamps=False))


def test_the_language_of_the_first_thirty_seconds_is_that_of_the_whole() -> None:
    multilingual = dataclasses.replace(SMALL, n_vocab=51_865)
    made = model(size=multilingual, long_form="sequential", language=None, max_tokens=5)
    samples = sound(33.0)
    (found,) = inference(made).transcribe([[Segment(samples, RATE, 0.0)]], SpanRecorder())
    expected = whisper.transcribe(made.modules, samples, temperature=0.0, fp16=False, sample_len=5)
    assert _tokens(found) == [token for each in expected["segments"] for token in each["tokens"]]


def _tokens(transcript: Transcript) -> list[int]:
    return [token for each in transcript.hypotheses for token in each.tokens]


def test_no_samples_are_no_windows() -> None:
    transcripts = inference(model(long_form="sequential")).transcribe([[], [segment(0.0)]], SpanRecorder())
    assert transcripts == [Transcript("", ()), Transcript("", ())]
    assert Hypothesis(()) not in transcripts[0].hypotheses


@pytest.mark.slow
@pytest.mark.parametrize("conditioned", [True, False])
def test_a_minute_through_the_real_tiny_en(conditioned: bool) -> None:
    made = model(str(tiny_en()), TINY_EN, long_form="sequential", condition_on_previous_text=conditioned)
    samples = sound(65.0)
    cut = [
        Segment(samples[start : start + WINDOW_SAMPLES], RATE, 0.0)
        for start in range(0, len(samples), WINDOW_SAMPLES)
    ]
    (found,) = inference(made).transcribe([cut], SpanRecorder())
    expected = whisper.transcribe(
        made.modules,
        samples,
        temperature=0.0,
        fp16=False,
        language="en",
        condition_on_previous_text=conditioned,
    )
    assert found.text == expected["text"].strip()
    assert len(found.hypotheses) >= len(samples) // 160 // WINDOW_FRAMES
