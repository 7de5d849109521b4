"""The grammar speaks new sentences of known words, the same for the same seed, and refuses nonsense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.corpus.grammar import Grammar
from harness.errors import UsageError


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load()


def sentences(grammar: Grammar, seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [grammar.sentence(rng) for _ in range(count)]


def write(folder: Path, content: str) -> Path:
    path = folder / "grammar.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_the_same_seed_speaks_the_same_sentences(grammar: Grammar) -> None:
    assert sentences(grammar, 7, 200) == sentences(grammar, 7, 200)
    assert sentences(grammar, 7, 200) != sentences(grammar, 8, 200)


def test_the_project_knows_at_least_six_hundred_words_and_uses_no_other(grammar: Grammar) -> None:
    spoken = {word for sentence in sentences(grammar, 1, 5000) for word in sentence.split()}
    assert len(grammar.words()) >= 600
    assert len(spoken) >= 600
    assert spoken <= grammar.words()


def test_sentences_are_words_of_letters_and_apostrophes_apart_by_single_spaces(grammar: Grammar) -> None:
    for sentence in sentences(grammar, 2, 2000):
        assert sentence == " ".join(sentence.split())
        assert set(sentence) <= set("abcdefghijklmnopqrstuvwxyz' ")
        assert sentence.strip("' ")


def test_most_sentences_are_said_once(grammar: Grammar) -> None:
    drawn = sentences(grammar, 3, 2000)
    assert len(set(drawn)) > 0.7 * len(drawn)


def test_a_weight_changes_how_often_an_alternative_is_drawn(tmp_path: Path) -> None:
    path = write(tmp_path, "start: s\nrules:\n  s: [{text: often, weight: 9}, seldom]\n")
    drawn = sentences(Grammar.load(path), 4, 2000)
    assert 0.85 < drawn.count("often") / len(drawn) < 0.95


def test_rules_are_put_where_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'start: s\nrules:\n  s: ["call  {who} now"]\n  who: [anna]\n')
    assert sentences(Grammar.load(path), 0, 1) == ["call anna now"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("start: s\n", "exactly the keys 'start' and 'rules'"),
        ("start: s\nrules: [a]\n", "must map"),
        ("start: t\nrules: {s: [a]}\n", "'start' names the rule 't'"),
        ("start: s\nrules: {s: []}\n", "at least one alternative"),
        ("start: s\nrules: {s: [yes, no]}\n", "put it in quotes"),
        ("start: s\nrules: {s: [a, a]}\n", "'a' is there twice"),
        ("start: s\nrules: {s: [Hello]}\n", "may hold a-z"),
        ("start: s\nrules: {s: ['{t}']}\n", "refers to 't'"),
        ("start: s\nrules: {s: ['{t}'], t: ['{s}']}\n", "lead back to themselves"),
        ("start: s\nrules: {s: [a], t: [b]}\n", "'t' is never used"),
        ("start: s\nrules: {s: [{text: a, weight: 0}]}\n", "positive number"),
        ("start: s\nrules: {s: [{text: a}]}\n", "needs the keys"),
        ("start: s\nrules: {S T: [a]}\n", "rule name 'S T'"),
        ("start: [s\n", "not YAML"),
    ],
)
def test_a_malformed_grammar_is_refused_with_the_file_and_the_reason(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError, match=r"grammar\.yaml") as refusal:
        Grammar.load(path)
    assert complaint in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        Grammar.load(tmp_path / "absent.yaml")
