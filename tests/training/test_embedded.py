"""What ships with the package is what its card says, and it transcribes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.corpus.grammar import Grammar
from harness.errors import UsageError
from harness.measure.wer import NO_ERRORS, WordErrors, count_errors
from training.card import CARD, write_card
from training.evaluate import Outcome, conditions, load_exported, missed, render, report, table, transcribe
from training.export import DESCRIPTION, TOKENIZER, WEIGHTS
from training.text import Pieces, held_out_sentences
from variants.models import embedded_weights
from variants.models.parakeet import PARAKEET_TINY
from variants.models.weights import file_sha256

SHIPPED = Path(embedded_weights.__file__).parent / "embedded"


def outcomes() -> dict[str, Outcome]:
    """One wrong word in a hundred, in every condition but one."""
    good = Outcome(WordErrors(0, 0, 1, 100), (("call anna", "call hannah"),))
    bad = Outcome(WordErrors(9, 2, 1, 100), (("call anna", ""),))
    return {name: bad if name == "Opus, 16 kbit/s" else good for name in conditions()}


def test_everything_that_ships_is_within_fifteen_megabytes() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 15_000_000


def test_description_and_card_name_the_files_that_ship() -> None:
    description = json.loads((SHIPPED / DESCRIPTION).read_text())
    card = (SHIPPED / CARD).read_text()
    assert description["architecture"]["d_model"] == PARAKEET_TINY.d_model
    for name in (WEIGHTS, TOKENIZER):
        assert description["sha256"][name] == file_sha256(SHIPPED / name)
        assert description["sha256"][name] in card


def test_the_tokenizer_writes_every_word_of_the_grammar() -> None:
    pieces = Pieces(SHIPPED / TOKENIZER)
    words = sorted(Grammar.load().words())
    assert [pieces.decode(tokens) for tokens in pieces.encode(words)] == words
    unknown = 0
    assert all(unknown not in tokens for tokens in pieces.encode(words))


def test_the_model_transcribes_sentences_that_it_never_heard() -> None:
    texts = held_out_sentences(Grammar.load(), np.random.default_rng(11), 6)
    clean = conditions()["training voices"]
    segments = [render(text, clean, number) for number, text in enumerate(texts)]
    heard = list(transcribe(load_exported(), segments))
    errors = sum(map(count_errors, texts, heard), NO_ERRORS)
    assert errors.total <= 0.15 * errors.words, list(zip(texts, heard, strict=True))


def test_an_evaluation_is_a_table_a_report_and_a_verdict() -> None:
    found = outcomes()
    assert missed(found) == ["Opus, 16 kbit/s"]
    assert "| Opus, 16 kbit/s | 12.00% | 9 | 2 | 1 | 100 | ≤ 5% |" in table(found)
    written = report(found)["conditions"]["training voices"]
    assert written["wer"] == pytest.approx(0.01)
    assert written["transcripts"] == [{"reference": "call anna", "hypothesis": "call hannah"}]


def test_the_card_keeps_its_text_and_takes_the_result(tmp_path: Path) -> None:
    for name in (CARD, DESCRIPTION):
        shutil.copyfile(SHIPPED / name, tmp_path / name)
    write_card(tmp_path, outcomes())
    card = (tmp_path / CARD).read_text()
    assert card.startswith("# parakeet_tiny")
    assert "12.00%" in card
    write_card(tmp_path, outcomes())
    assert (tmp_path / CARD).read_text() == card


def test_a_card_without_a_place_for_the_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model card"):
        write_card(tmp_path, outcomes())
    (tmp_path / CARD).write_text("# A card\n")
    with pytest.raises(UsageError, match="measured"):
        write_card(tmp_path, outcomes())
