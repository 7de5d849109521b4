"""Token ids to text: a trained sentencepiece model, or readable pseudo-words for synthetic weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UnavailableError, UsageError

_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "ch",
    "sh",
    "th",
)
_VOWELS = ("a", "e", "i", "o", "u")
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in _VOWELS)
MAX_SYNTHETIC_TOKENS = len(_SYLLABLES) ** 2


class SentencePieceTokenizer:
    """The sentencepiece model that a checkpoint was trained with."""

    def __init__(self, path: Path) -> None:
        """Raises ``UnavailableError`` naming ``path`` when it is missing or no sentencepiece model."""
        import sentencepiece

        if not path.is_file():
            raise UnavailableError(f"{path}: no such tokenizer; use model.weights=synthetic or a .nemo file")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise UnavailableError(f"{path}: not a sentencepiece model ({error})") from error

    @property
    def vocab_size(self) -> int:
        return int(self._processor.get_piece_size())

    @property
    def pieces(self) -> list[str]:
        """By id; the start of a word is marked with U+2581."""
        return [str(self._processor.id_to_piece(token)) for token in range(self.vocab_size)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.decode(list(tokens)))


class SyntheticTokenizer:
    """Two-syllable pieces, one per id; six of ten begin a word, as in English vocabularies of BPE.

    Texts of different tokens differ, so that a wrong token shows in the text and in the error rate.
    """

    def __init__(self, vocab_size: int) -> None:
        if not 0 < vocab_size <= MAX_SYNTHETIC_TOKENS:
            raise UsageError(f"a synthetic vocabulary has 1..{MAX_SYNTHETIC_TOKENS} tokens, not {vocab_size}")
        self._pieces = tuple(_pseudo_piece(token) for token in range(vocab_size))

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._pieces[token] for token in tokens).strip()


def _pseudo_piece(token: int) -> str:
    first, second = divmod(token, len(_SYLLABLES))
    begins_word = token * 7 % 10 < 6
    return (" " if begins_word else "") + _SYLLABLES[first] + _SYLLABLES[second]
