"""Readable text from token ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UnavailableError, UsageError
from variants.models.tokenizer import SentencePieceTokenizer, SyntheticTokenizer


def test_pseudo_words_are_readable_and_the_same_every_time() -> None:
    tokenizer = SyntheticTokenizer(8192)
    text = tokenizer.decode([0, 17, 8191, 4242])
    assert text == SyntheticTokenizer(8192).decode([0, 17, 8191, 4242])
    assert text.replace(" ", "").isalpha()
    assert not text.startswith(" ")
    assert tokenizer.decode([]) == ""


def test_different_tokens_have_different_pieces() -> None:
    tokenizer = SyntheticTokenizer(8192)
    assert len({tokenizer.decode([token]) for token in range(8192)}) == 8192


def test_a_vocabulary_beyond_the_syllables_is_refused() -> None:
    with pytest.raises(UsageError, match="10001"):
        SyntheticTokenizer(10_001)


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(UnavailableError, match=str(path)):
        SentencePieceTokenizer(path)
    path.write_bytes(b"not a model")
    with pytest.raises(UnavailableError, match=str(path)):
        SentencePieceTokenizer(path)
