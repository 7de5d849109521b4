"""What is said: texts for training, sentences kept out of it, and the pieces they are cut into."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.corpus.grammar import Grammar

VOCABULARY = 512
_HELD_OUT_SHARE = 0.1
_CANDIDATES = 4
_STRING_SHARE = 0.3
_STRING_WORDS = (1, 6)


def is_held_out(sentence: str) -> bool:
    """Whether a sentence belongs to the tenth that training never sees, by the hash of its text."""
    head = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big")
    return head < _HELD_OUT_SHARE * 2**32


def training_sentences(grammar: Grammar, rng: np.random.Generator, count: int) -> list[str]:
    """Texts outside the held-out tenth: sentences, and strings of words in no order at all.

    The strings make every word known, also those of sentences that are held out, and keep the
    prediction network from reciting sentences that it has learned by heart. Of a few candidates, the
    one with the rarest word so far is taken.
    """
    seen: Counter[str] = Counter()
    words = sorted(grammar.words())
    chosen = []
    for _ in range(count):
        if rng.random() < _STRING_SHARE:
            text = _outside(lambda: _string(words, rng))
        else:
            candidates = [_outside(lambda: grammar.sentence(rng)) for _ in range(_CANDIDATES)]
            text = min(candidates, key=lambda candidate: min(seen[word] for word in candidate.split()))
        seen.update(text.split())
        chosen.append(text)
    return chosen


def held_out_sentences(grammar: Grammar, rng: np.random.Generator, count: int) -> list[str]:
    """Different sentences of the held-out tenth."""
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        sentence = grammar.sentence(rng)
        if is_held_out(sentence):
            chosen[sentence] = None
    return list(chosen)


def _outside(draw: Callable[[], str]) -> str:
    """Draw until the text is outside the held-out tenth."""
    while is_held_out(text := draw()):
        pass
    return text


def _string(words: Sequence[str], rng: np.random.Generator) -> str:
    fewest, most = _STRING_WORDS
    return " ".join(words[index] for index in rng.integers(len(words), size=rng.integers(fewest, most + 1)))


def train_tokenizer(sentences: Sequence[str], path: Path, vocabulary: int = VOCABULARY) -> None:
    """Write a sentencepiece unigram model of ``vocabulary`` pieces; the first is "unknown"."""
    import sentencepiece

    with path.open("wb") as target:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sorted(set(sentences))),
            model_writer=target,
            model_type="unigram",
            vocab_size=vocabulary,
            character_coverage=1.0,
            normalization_rule_name="identity",
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )


class Pieces:
    """Texts to piece numbers, with the model that ``train_tokenizer`` wrote."""

    def __init__(self, path: Path) -> None:
        import sentencepiece

        self._processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        yield from self._processor.encode(list(texts))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.decode(list(tokens)))
