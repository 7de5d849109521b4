"""Greedy search over a batch of windows: prompt, language, first token, steps, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from harness.protocols import Decoded, Hypothesis
from variants.decoder.attention.choice import Choice
from variants.decoder.attention.network import Caches, Network

if TYPE_CHECKING:
    from harness.protocols import EncoderOutput
    from variants.models.whisper.model import AttentionModel


@dataclass(frozen=True, slots=True)
class Found:
    """What a window says, as ``whisper.decoding.DecodingResult`` has it."""

    tokens: tuple[int, ...]
    """Without the prompt and the end; timestamps among them."""
    no_speech: float
    """Probability that the window has none."""
    mean_log_probability: float
    """Of the tokens and the end."""
    language: int
    """The token of the language that was last heard in this row; -1 where none was."""


class WindowDecoder(Protocol):
    """A ``harness.protocols.Decoder`` that also says how sure it is, and takes what came before."""

    def search(
        self, encoded: EncoderOutput, previous: Sequence[int] | None = None, language: int | None = None
    ) -> list[Found]:
        """Of each row of ``encoded``, after the text ``previous`` (None: the initial prompt), in the language
        of that token (None: as the options say)."""
        ...

    def languages(self, encoded: EncoderOutput) -> list[int]:
        """The token of the language of each row."""
        ...


class Search:
    """A batch in progress. Its tensors stay where they are from batch to batch."""

    def __init__(self, model: AttentionModel, rows: int) -> None:
        self._model, self._rules = model, model.rules
        self._network = Network(model)
        self._choice = Choice(model.rules, model.size.n_vocab, model.device)
        self._caches = self._network.caches(rows)
        self._rows = self._choice.rows(rows)
        self.capacity = rows
        self._states = model.size.n_audio_ctx  # of each window of the batch
        device = model.device
        self._tokens = torch.zeros((rows, model.size.n_text_ctx), dtype=torch.int64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        self._no_speech = torch.zeros(rows, device=device)
        self._languages = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self._candidates = torch.tensor(model.rules.languages, dtype=torch.int64, device=device)

    def begin(self, states: torch.Tensor, prompt: Prompt) -> None:
        """Take in the windows ``[B, A, D]`` and choose each row's first token."""
        count, length = len(states), len(prompt.tokens)
        caches, rows = self._caches_for(states), self._rows.first(count)
        tokens = prompt.tokens.repeat(count, 1)  # [B, P]
        if prompt.hear_language:
            self._languages[:count] = self._heard(tokens[:, prompt.start_at], caches)
            tokens[:, prompt.start_at + 1] = self._languages[:count]
        positions = torch.arange(length, device=tokens.device).expand_as(tokens)
        final = self._network(tokens, positions, length, caches)
        before = self._network.logits(final[:, prompt.start_at]).softmax(dim=-1)
        self._no_speech[:count] = before[:, self._rules.no_speech]
        self._tokens[:count, 0] = self._choice.first(self._network.logits(final[:, -1]), rows)
        self._count.fill_(1)
        self._position.fill_(length)

    def hear_languages(self, states: torch.Tensor) -> torch.Tensor:
        """The likeliest language of each window ``[B, A, D]``, int64 ``[B]``."""
        start = torch.full((len(states),), self._rules.start[0], device=states.device)
        return self._heard(start, self._caches_for(states))

    def _caches_for(self, states: torch.Tensor) -> Caches:
        """Of these rows and as many states as they have, which are in them now."""
        self._states = states.shape[1]
        caches = self._caches.rows(len(states), self._states)
        self._network.attend_to(states, caches)
        return caches

    def _heard(self, start: torch.Tensor, caches: Caches) -> torch.Tensor:
        """What follows the start of transcript alone."""
        final = self._network(start[:, None], torch.zeros_like(start)[:, None], 1, caches)
        return self._candidates[self._network.logits(final[:, 0])[:, self._candidates].argmax(dim=-1)]

    def step(self, count: int, reach: int) -> None:
        """Choose the next token of the first ``count`` rows; ``reach`` is more than its position. Touches
        the host nowhere."""
        caches, rows = self._caches.rows(count, self._states), self._rows.first(count)
        final = self._network(rows.last[:, None], self._position.expand(count, 1), reach, caches)
        tokens = self._choice.next(self._network.logits(final[:, 0]), rows)
        self._tokens[:count].index_copy_(1, self._count[None], tokens[:, None])
        self._count += 1
        self._position += 1

    def leave_out(self, first: int, last: int) -> None:
        """Rows ``first`` to ``last`` only fill a batch up: they have ended."""
        self._rows.ended[first:last] = True
        self._rows.last[first:last] = self._rules.end

    def rewind(self) -> None:
        """To where any step may be tried."""
        self._count.zero_()
        self._position.zero_()

    def ended(self, count: int) -> torch.Tensor:
        """bool ``[B]`` on the device."""
        return self._rows.ended[:count]

    def found(self, count: int, steps: int) -> list[Found]:
        """After ``steps`` tokens, the first one among them."""
        end = self._rules.end
        tokens: list[list[int]] = self._tokens[:count, :steps].tolist()
        texts = [row[: row.index(end)] if end in row else row for row in tokens]
        figures = torch.stack((self._no_speech[:count], self._rows.log_probability[:count])).tolist()
        languages: list[int] = self._languages[:count].tolist()
        return [
            Found(tuple(text), no_speech, total / (len(text) + 1), language)
            for text, no_speech, total, language in zip(texts, *figures, languages, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a window begins with."""

    tokens: torch.Tensor  # int64 [P], on the device
    start_at: int
    """Where in it the transcript starts; its language follows."""
    hear_language: bool


def pieces(states: torch.Tensor, capacity: int) -> Iterator[torch.Tensor]:
    """``[B, A, D]`` in stretches of rows that caches have room for."""
    return (states[start : start + capacity] for start in range(0, len(states), capacity))


def prompt_of(model: AttentionModel, previous: Sequence[int] | None, language: int | None) -> Prompt:
    """As ``WindowDecoder.search`` takes them."""
    rules = model.rules
    tokens = torch.tensor(rules.prompt(rules.before if previous is None else previous), device=model.device)
    start_at = len(tokens) - len(rules.start)
    if language is not None:
        tokens[start_at + 1] = language
    return Prompt(tokens, start_at, bool(rules.languages) and language is None)


def decoded(model: AttentionModel, found: Sequence[Found]) -> Decoded:
    """A window without speech has no tokens."""
    return Decoded([Hypothesis(() if silent(model, each) else each.tokens) for each in found])


def silent(model: AttentionModel, found: Found) -> bool:
    return model.options.no_text(found.no_speech, found.mean_log_probability)
