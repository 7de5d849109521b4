"""Greedy search over windows, token by token as openai-whisper's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.corpus.speech import Voice, speak
from harness.errors import UsageError
from harness.protocols import EncoderOutput, Segment
from tests.harness.audio.recordings import RATE, noise, resample
from tests.variants.models.whisper.parts import SMALL, base, model, tiny_en
from tests.variants.models.whisper.test_features import sound
from variants.decoder.attention.cpu_synced import CpuSyncedDecoder
from variants.encoder.attention.eager import EagerEncoder
from variants.models.whisper.architecture import BASE, TINY_EN
from variants.models.whisper.model import AttentionModel

whisper = pytest.importorskip("whisper", reason="needs the extra whisper")

MULTILINGUAL = dataclasses.replace(SMALL, n_vocab=51_865)


SHORT = {"max_tokens": 30}
GERMAN = {"language": "de", "task": "translate"}


def encoded(ours: AttentionModel, clips: list[np.ndarray]) -> EncoderOutput:
    return EagerEncoder(ours).encode(ours.features([Segment(clip, RATE, 0.0) for clip in clips]))


def assert_as_openai_whisper(
    ours: AttentionModel, states: EncoderOutput, max_batch: int, **options: object
) -> None:
    decoder = CpuSyncedDecoder(ours, max_batch)
    found = decoder.search(states)
    expected = whisper.decode(ours.modules, states.values, whisper.DecodingOptions(fp16=False, **options))
    for row, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert list(mine.tokens) == theirs.tokens, row
        assert mine.no_speech == pytest.approx(theirs.no_speech_prob, rel=1e-3)
        assert mine.mean_log_probability == pytest.approx(theirs.avg_logprob, rel=1e-3)
        assert ours.tokenizer.decode(mine.tokens) == theirs.text
    tokens = sum(len(each.tokens) for each in found)
    assert decoder.evidence()["tokens"] == tokens
    assert decoder.evidence()["windows"] == len(found)


CLIPS = [sound(3.0), 0.1 * sound(30.0), np.zeros(RATE, np.float32)]  # a batch of two, and one of one


@pytest.mark.parametrize(
    ("size", "ours", "theirs"),
    [
        (SMALL, {}, {"language": "en"}),
        (
            SMALL,
            {"timestamps": False, "max_tokens": 40},
            {"language": "en", "without_timestamps": True, "sample_len": 40},
        ),
        (SMALL, {"initial_prompt": "Ada", **SHORT}, {"language": "en", "prompt": "Ada", "sample_len": 30}),
        (MULTILINGUAL, {"language": None, **SHORT}, {"language": None, "sample_len": 30}),
        (MULTILINGUAL, {**GERMAN, **SHORT}, {**GERMAN, "sample_len": 30}),
    ],
    ids=["en", "no timestamps", "prompt", "heard language", "translation"],
)
def test_random_weights_say_what_openai_whisper_says(size, ours, theirs):
    made = model(size=size, **ours)
    assert_as_openai_whisper(made, encoded(made, CLIPS), max_batch=2, **theirs)


def test_a_prompt_as_long_as_the_context_allows():
    made = model(max_tokens=500)
    states = encoded(made, CLIPS[:1])
    previous = list(range(1000, 1400))
    (found,) = CpuSyncedDecoder(made, 1).search(states, previous)
    options = whisper.DecodingOptions(fp16=False, language="en", prompt=previous, sample_len=500)
    assert list(found.tokens) == whisper.decode(made.modules, states.values, options)[0].tokens


def test_a_language_that_was_heard_can_be_given():
    made = model(size=MULTILINGUAL, language=None, max_tokens=30)
    states = encoded(made, CLIPS[:2])
    decoder = CpuSyncedDecoder(made, 2)
    heard = decoder.search(states)
    languages = decoder.languages(states)
    assert [each.language for each in heard] == languages
    others = [token for token in made.rules.languages if token != languages[0]][:4]
    assert decoder.search(states, language=languages[0])[0].tokens == heard[0].tokens
    assert any(decoder.search(states, language=each)[0].tokens != heard[0].tokens for each in others)


def test_what_an_english_model_does_not_know_is_refused():
    with pytest.raises(UsageError, match=r"model\.options\.language=de: this model knows English alone"):
        model(language="de")
    with pytest.raises(UsageError, match=r"model\.options\.language=xx"):
        model(size=MULTILINGUAL, language="xx")


def test_a_window_without_speech_has_no_text():
    made = model(str(tiny_en()), TINY_EN, logprob_threshold=0.0)
    decoder = CpuSyncedDecoder(made, 1)
    states = encoded(made, [np.zeros(5 * RATE, np.float32)])
    assert decoder.search(states)[0].no_speech > 0.6
    assert decoder.decode(states).hypotheses[0].tokens == ()
    likely = dataclasses.replace(made, options=dataclasses.replace(made.options, logprob_threshold=-9.0))
    assert CpuSyncedDecoder(likely, 1).decode(states).hypotheses[0].tokens


# ---------------------------------------------------------------- many clips: minutes


def spoken(text: str, voice: str = "en-us") -> np.ndarray:
    said = speak(text, Voice(voice))
    return resample(said, sample_rate=RATE).samples


def many() -> list[np.ndarray]:
    """Speech, silence, noise and tones, of 0.1 to 30 s."""
    rng = np.random.default_rng(0)
    texts = (
        "thanks for calling",
        "the train to the coast leaves at ten",
        "please spell your last name",
        "no",
    )
    clips = [spoken(text) for text in texts]
    clips += [sound(seconds) for seconds in (0.1, 0.3, 0.7, 1.0, 1.9, 3.3, 5.0, 8.0, 12.0, 20.0, 29.0, 30.0)]
    clips += [np.zeros(round(s * RATE), np.float32) for s in (0.1, 1.0, 10.0, 30.0)]
    clips += [noise(s, peak=p) for s in (0.1, 2.0, 15.0) for p in (1e-3, 0.1, 0.9)]
    for pitch in (110.0, 261.6, 440.0, 1000.0, 3000.0):
        t = np.arange(round(rng.uniform(1.0, 10.0) * RATE)) / RATE
        clips.append((0.3 * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3))).astype(np.float32))
    clips += [(sound(4.0) + noise(4.0, peak=p)).astype(np.float32) for p in (0.01, 0.05, 0.2, 0.5)]
    clips += [gain * sound(6.0) for gain in (1e-4, 1e-2, 0.5, 3.0)]
    clips += [sound(9.0)[start::1][: 2 * RATE].copy() for start in range(0, 5 * RATE, RATE // 2)]
    return clips


@pytest.mark.slow
def test_fifty_clips_through_the_real_tiny_en():
    made = model(str(tiny_en()), TINY_EN)
    clips = many()
    assert len(clips) >= 50
    for start in range(0, len(clips), 4):
        assert_as_openai_whisper(made, encoded(made, clips[start : start + 4]), 4, language="en")


@pytest.mark.slow
@pytest.mark.parametrize("heard", [True, False])
def test_five_languages_through_the_real_base(tmp_path: Path, heard: bool) -> None:
    folder = str(base(tmp_path))
    texts = {
        "en": ("en-us", "the weather is good today"),
        "de": ("de", "das wetter ist heute sehr schön"),
        "fr": ("fr", "le temps est très beau aujourd'hui"),
        "es": ("es", "hoy hace muy buen tiempo"),
        "it": ("it", "oggi il tempo è molto bello"),
    }
    for language, (voice, text) in texts.items():
        made = model(folder, BASE, language=None if heard else language)
        states = encoded(made, [spoken(text, voice)])
        assert_as_openai_whisper(made, states, 1, language=None if heard else language)
    assert torch.isfinite(states.values).all()
