"""What a step may choose, held to openai-whisper's own filters on random logits and histories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from variants.decoder.attention.choice import Choice
from variants.models.whisper.architecture import LARGE_V3, TINY_EN, WhisperArchitecture
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.rules import WhisperTokenizer

decoding = pytest.importorskip("whisper.decoding", reason="needs the extra whisper")

ROWS, STEPS = 10, 9


class Filtered:
    """openai-whisper's filters and its greedy decoder, in the order of ``DecodingTask``."""

    def __init__(self, size: WhisperArchitecture, timestamps: bool) -> None:
        inner = WhisperTokenizer(size, WhisperOptions())._inner
        rules = WhisperTokenizer(size, WhisperOptions(timestamps=timestamps)).rules(
            size, WhisperOptions(timestamps=timestamps)
        )
        begin = len(rules.start)
        suppressed = set(rules.suppressed) - {inner.no_timestamps}
        self.filters = [decoding.SuppressBlank(inner, begin), decoding.SuppressTokens(sorted(suppressed))]
        if timestamps:
            self.filters.append(decoding.ApplyTimestampRules(inner, begin, 50))
        self.greedy = decoding.GreedyDecoder(0.0, inner.eot)
        self.tokens = torch.tensor([rules.start] * ROWS)
        self.sums = torch.zeros(ROWS)

    def update(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        for each in self.filters:
            each.apply(logits, self.tokens)
        self.tokens, _ = self.greedy.update(self.tokens, logits, self.sums)
        return self.tokens[:, -1]


def drawn(rng: np.random.Generator, size: WhisperArchitecture, end: int) -> torch.Tensor:
    """Logits that make words, timestamps and the end each likely in some rows."""
    logits = rng.standard_normal((ROWS, size.n_vocab)).astype(np.float32) * 2
    logits[:, -1501:] += rng.choice([-6, 0, 3, 9], ROWS)[:, None]
    logits[:, end] += rng.choice([0, 5, 14], ROWS, p=[0.5, 0.3, 0.2])
    return torch.from_numpy(logits)


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("size", [TINY_EN, LARGE_V3], ids=["en", "multilingual"])
def test_every_step_chooses_as_openai_whisper(size: WhisperArchitecture, timestamps: bool) -> None:
    options = WhisperOptions(timestamps=timestamps)
    rules = WhisperTokenizer(size, options).rules(size, options)
    theirs = Filtered(size, timestamps)
    ours = Choice(rules, size.n_vocab, torch.device("cpu"))
    rows = ours.rows(ROWS)
    rng = np.random.default_rng(size.n_vocab)
    kinds = set()
    for step in range(STEPS):
        logits = drawn(rng, size, rules.end)
        found = (ours.next if step else ours.first)(logits, rows)
        assert found.tolist() == theirs.update(logits).tolist(), step
        kinds |= {int(token >= rules.timestamp_begin) - int(token == rules.end) for token in found.tolist()}
    torch.testing.assert_close(rows.log_probability, theirs.sums)
    assert kinds >= {-1, 0}
    assert (1 in kinds) == timestamps or not timestamps


def test_a_batch_begins_anew() -> None:
    options = WhisperOptions()
    rules = WhisperTokenizer(TINY_EN, options).rules(TINY_EN, options)
    choice = Choice(rules, TINY_EN.n_vocab, torch.device("cpu"))
    rows = choice.rows(ROWS)
    rng = np.random.default_rng(5)
    logits = [drawn(rng, TINY_EN, rules.end) for _ in range(4)]

    def run() -> list[list[int]]:
        return [
            (choice.next if step else choice.first)(each, rows).tolist() for step, each in enumerate(logits)
        ]

    assert run() == run()
