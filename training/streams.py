"""What it costs to hear a model live: word error rates of windows and of kept layers, beside the whole.

Sentences that training never sees, three by one voice with pauses between them, are a stream. Everything
follows from a fixed seed; one stream is heard at a time, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.corpus.grammar import Grammar
from harness.measure.wer import NO_ERRORS, WordErrors, count_errors
from harness.protocols import Segment, ShapePlan
from harness.protocols.options import NoOptions
from training.data import SAMPLE_RATE
from training.evaluate import SEED, Condition, conditions, render, transcribe
from training.text import held_out_sentences
from variants.decoder import cpu_synced
from variants.encoder import eager
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder
from variants.serving.pool import OnlyStream
from variants.serving.window import StreamingOptions

_SENTENCES = 3
_PAUSE_S = 0.4
_PUSH_S = 0.1

CONTEXTS = (  # left, chunk and right, in seconds
    (9.6, 1.12, 0.64),
    (9.6, 0.64, 0.64),
    (9.6, 0.32, 0.64),
    (4.8, 0.64, 0.64),
    (2.4, 0.64, 0.64),
    (9.6, 0.64, 0.32),
    (9.6, 0.32, 0.16),
)


@dataclass(frozen=True, slots=True)
class Heard:
    """One way to hear: errors, and what a second of audio costs."""

    way: str
    errors: WordErrors
    cost_s: float


def streams(model: TdtModel, sentences: int) -> Iterator[Heard]:
    """The whole of every stream at once, then each of ``CONTEXTS`` by both methods."""
    texts = held_out_sentences(Grammar.load(), np.random.default_rng(SEED), sentences)
    spoken = list(_spoken(texts, conditions()["training voices"]))
    audio_s = sum(len(samples) for _, samples in spoken) / SAMPLE_RATE
    began = time.perf_counter()
    found = [next(transcribe(model, [Segment(samples, SAMPLE_RATE, 0.0)])) for _, samples in spoken]
    yield Heard("the whole at once", _errors(spoken, found), (time.perf_counter() - began) / audio_s)
    methods: tuple[Literal["window", "cached"], ...] = ("window", "cached")
    for contexts in CONTEXTS:
        for method in methods:
            options = StreamingOptions(*contexts, method=method)
            began = time.perf_counter()
            found = [_heard(model, options, samples) for _, samples in spoken]
            cost_s = (time.perf_counter() - began) / audio_s
            left, chunk, right = contexts
            yield Heard(f"{method}, {left:g} + {chunk:g} + {right:g} s", _errors(spoken, found), cost_s)


def table(found: Sequence[Heard]) -> str:
    """In Markdown."""
    rows = ["| left + chunk + right | WER | words | CPU a second of audio |", "|---|---|---|---|"]
    rows += [
        f"| {each.way} | {each.errors.total / each.errors.words:.2%} | {each.errors.words} | "
        f"{each.cost_s * 1e3:.1f} ms |"
        for each in found
    ]
    return "\n".join(rows)


def _spoken(texts: Sequence[str], condition: Condition) -> Iterator[tuple[str, np.ndarray]]:
    """Text and samples of each stream."""
    pause = np.zeros(round(_PAUSE_S * SAMPLE_RATE), np.float32)
    for number in range(len(texts) // _SENTENCES):
        said = texts[number * _SENTENCES :][:_SENTENCES]
        parts = [part for text in said for part in (render(text, condition, number).samples, pause)]
        yield " ".join(said), np.concatenate(parts)


def _heard(model: TdtModel, options: StreamingOptions, samples: np.ndarray) -> str:
    """As a client speaks: in pieces."""
    live = replace(model, options=options)
    plan = ShapePlan((), 1)
    none = NoOptions()
    parts = EncoderDecoder(live, eager.build(live, none, plan), cpu_synced.build(live, none, plan), plan)
    stream = OnlyStream(parts.open_pool(1))
    size = round(_PUSH_S * SAMPLE_RATE)
    for start in range(0, len(samples), size):
        stream.push(samples[start : start + size])
    return stream.commit().text


def _errors(spoken: Sequence[tuple[str, np.ndarray]], found: Sequence[str]) -> WordErrors:
    pairs = zip((text for text, _ in spoken), found, strict=True)
    return sum((count_errors(*pair) for pair in pairs), NO_ERRORS)
