"""Training speech is the same for the same seed, in known voices, and never of held-out sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.corpus.grammar import Grammar
from harness.corpus.speech import VOICES
from harness.errors import UsageError
from training.data import (
    MARGIN_S,
    SAMPLE_RATE,
    Corpus,
    load_corpus,
    render_clip,
    render_corpus,
    through_codec,
    trim,
)
from training.text import (
    Pieces,
    held_out_sentences,
    is_held_out,
    train_tokenizer,
    training_sentences,
)
from training.voices import HELD_OUT, held_out_voices, pick_voice, training_voices


def test_a_clip_depends_on_its_seed_alone() -> None:
    voices = training_voices()
    first, again, other = (
        render_clip("call my sister at noon", voices, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_corpus_is_what_its_clips_are_alone(corpus: Corpus) -> None:
    """Neither the number of processes nor the clips before it change a clip."""
    number = 100
    alone = render_clip(corpus.texts[number], training_voices(), np.random.default_rng((3, 1, number)))
    start = int(corpus.offsets[number])
    assert np.array_equal(corpus.audio[start : start + int(corpus.lengths[number])], alone)
    assert int(corpus.lengths.sum()) == len(corpus.audio)


def test_training_never_sees_a_held_out_sentence(corpus: Corpus) -> None:
    assert not any(is_held_out(text) for text in corpus.texts)
    held_out = held_out_sentences(Grammar.load(), np.random.default_rng(0), 200)
    assert all(is_held_out(text) for text in held_out)
    assert len(set(held_out)) == 200


def test_training_says_every_word_of_the_grammar() -> None:
    """So that a held-out sentence is new and its words are not."""
    grammar = Grammar.load()
    said = training_sentences(grammar, np.random.default_rng(0), 10_000)
    assert {word for text in said for word in text.split()} == grammar.words()


def test_a_corpus_goes_on_with_a_given_tokenizer(corpus_folder: Path, tmp_path: Path) -> None:
    tokenizer = corpus_folder / "tokenizer.model"
    render_corpus(tmp_path / "more", clips=2, seed=4, workers=1, tokenizer=tokenizer)
    assert load_corpus(tmp_path / "more").tokenizer.read_bytes() == tokenizer.read_bytes()
    with pytest.raises(UsageError, match="no such tokenizer"):
        render_corpus(tmp_path, clips=2, seed=4, workers=1, tokenizer=tmp_path / "absent.model")


def test_held_out_voices_share_neither_accent_nor_timbre_with_training() -> None:
    known = training_voices()
    assert len(known) >= 12
    assert len(held_out_voices()) == 2
    accent, timbre = (VOICES[name] for name in HELD_OUT)
    assert accent.name not in {voice.name for voice in known}
    assert timbre.variant not in {voice.variant for voice in known}


def test_every_training_voice_can_be_made_faster_slower_higher_and_lower() -> None:
    rng = np.random.default_rng(0)
    for voice in training_voices():
        assert all(pick_voice((voice,), rng).name == voice.name for _ in range(50))


def test_trimming_leaves_the_margin_and_nothing_more() -> None:
    speech = np.full(4000, 0.3, np.float32)
    margin = round(MARGIN_S * SAMPLE_RATE)
    trimmed = trim(np.pad(speech, (9000, 100))).samples
    assert np.array_equal(trimmed, np.pad(speech, margin))
    assert len(trim(np.zeros(1000, np.float32)).samples) == 2 * margin


@pytest.mark.parametrize(("container", "rate"), [("webm", 16_000), ("mp3", 44_100), ("m4a", 44_100)])
def test_a_codec_keeps_speech_in_its_place(container: str, rate: int) -> None:
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / SAMPLE_RATE) * 0.3
    clip = trim((tone + 1e-3 * rng.standard_normal(16_000)).astype(np.float32))
    heard = through_codec(clip, container, rate, 64_000).samples[: len(clip.samples)]
    lag = int(np.argmax(np.correlate(heard, clip.samples[: len(heard)], "full"))) - (len(heard) - 1)
    assert abs(lag) <= SAMPLE_RATE // 440  # within a period of the tone


def test_the_tokenizer_gives_every_sentence_back(tmp_path: Path) -> None:
    grammar = Grammar.load()
    path = tmp_path / "tokenizer.model"
    train_tokenizer(training_sentences(grammar, np.random.default_rng(0), 3000), path)
    pieces = Pieces(path)
    texts = held_out_sentences(grammar, np.random.default_rng(1), 300)
    assert [pieces.decode(tokens) for tokens in pieces.encode(texts)] == texts
    assert max(max(tokens) for tokens in pieces.encode(texts)) < 512


def test_a_folder_without_a_complete_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="python -m training data"):
        load_corpus(tmp_path)
