"""What a step of greedy search may choose: openai-whisper's rules as operations on a batch.

Each is a comparison of token ids with bounds that follow from a row's last two tokens, without a branch on
the host: the same code runs eagerly and inside a captured step (where ``torch.where`` must not take a number,
which it would copy to the device).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from variants.models.whisper.rules import GreedyRules

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each row of a batch stands, in memory that stays: steps write into it."""

    last: torch.Tensor  # int64 [B], the token chosen last
    last_but_one: torch.Tensor  # int64 [B]; a timestamp where there is none, as the rules take it
    latest: torch.Tensor  # int64 [B], the latest timestamp, or one below the first
    log_probability: torch.Tensor  # float32 [B], of the tokens chosen, the end included
    ended: torch.Tensor  # bool [B]

    def first(self, count: int) -> Rows:
        return Rows(*(getattr(self, name)[:count] for name in self.__slots__))


class Choice:
    """The rules of one model on its device."""

    def __init__(self, rules: GreedyRules, vocabulary: int, device: torch.device) -> None:
        self._rules = rules
        self._device = device
        self._ids = torch.arange(vocabulary, device=device)
        self._suppressed = self._penalty(rules.suppressed)  # float32 [V]
        self._suppressed_first = self._suppressed + self._penalty(rules.suppressed_first)
        if rules.timestamps:
            outside = (self._ids < rules.timestamp_begin) | (self._ids > rules.last_first_timestamp)
            self._suppressed_first[outside] = _NEVER

    def _penalty(self, tokens: tuple[int, ...]) -> torch.Tensor:
        penalty = torch.zeros(len(self._ids), device=self._device)
        penalty[list(tokens)] = _NEVER
        return penalty

    def rows(self, count: int) -> Rows:
        def of(value: int) -> torch.Tensor:
            return torch.full((count,), value, device=self._device)

        begin = self._rules.timestamp_begin
        return Rows(
            last=of(0),
            last_but_one=of(begin),
            latest=of(begin - 1),
            log_probability=torch.zeros(count, device=self._device),
            ended=torch.zeros(count, dtype=torch.bool, device=self._device),
        )

    def first(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The first token of each row, int64 ``[B]``, of ``logits`` ``[B, V]``; begins the rows anew."""
        begin = self._rules.timestamp_begin
        rows.last.fill_(begin)
        rows.latest.fill_(begin - 1)
        rows.log_probability.zero_()
        rows.ended.zero_()
        return self._take(logits + self._suppressed_first, rows)

    def next(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The next token of each row; the end again for those that have ended."""
        allowed = logits + self._suppressed
        return self._take(self._with_timestamps(allowed, rows) if self._rules.timestamps else allowed, rows)

    def _with_timestamps(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Timestamps come in pairs, the second of which may close the text; they never go back, and a stretch
        is never empty; and they are chosen wherever all together are likelier than any word."""
        begin, end = self._rules.timestamp_begin, self._rules.end
        said = rows.last >= begin
        opened = said & (rows.last_but_one >= begin)  # words have to follow
        closed = said & ~opened  # another timestamp or the end has to follow
        ids = self._ids  # [V]
        word = ids < begin
        least_word = (closed * end)[:, None]
        least_time = (rows.latest + ~closed).masked_fill(opened, len(ids))[:, None]
        possible = torch.where(word, ids >= least_word, ids >= least_time)  # [B, V]
        logits = logits.masked_fill(~possible, _NEVER)
        times = logits[:, begin:].logsumexp(dim=-1) > logits[:, :begin].amax(dim=-1)  # [B]
        return logits.masked_fill(times[:, None] & word, _NEVER)

    def _take(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The likeliest, and what follows from it for the row."""
        end = self._rules.end
        tokens = logits.argmax(dim=-1).masked_fill(rows.ended, end)
        likely = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        rows.log_probability.add_(likely.masked_fill(rows.ended, 0.0))
        rows.last_but_one.copy_(rows.last)
        rows.last.copy_(tokens)
        rows.latest.copy_(torch.where(tokens >= self._rules.timestamp_begin, tokens, rows.latest))
        rows.ended.copy_(tokens == end)
        return tokens
