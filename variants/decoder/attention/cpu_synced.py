"""Whisper's greedy search with the host in the loop: after each step it waits to hear who has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from harness.protocols import Decoded
from harness.protocols.options import NoOptions
from variants.decoder.attention.search import Found, Prompt, Search, decoded, pieces, prompt_of

if TYPE_CHECKING:
    from harness.protocols import EncoderOutput, Evidence, ShapePlan
    from variants.models.whisper.model import AttentionModel


def build(model: AttentionModel, options: NoOptions, plan: ShapePlan) -> CpuSyncedDecoder:  # noqa: ARG001
    """The decoder of ``model``, its caches large enough for the largest batch."""
    return CpuSyncedDecoder(model, plan.max_batch)


class CpuSyncedDecoder:
    """``harness.protocols.Decoder``, and ``WindowDecoder``: one host synchronization per step."""

    def __init__(self, model: AttentionModel, max_batch: int) -> None:
        self._model = model
        self._search = Search(model, max_batch)
        self._windows = self._tokens = self._steps = 0

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:  # noqa: ARG002
        """Windows are independent of each other: there is no state to go on from."""
        return decoded(self._model, self.search(encoded))

    @torch.inference_mode()
    def search(
        self, encoded: EncoderOutput, previous: Sequence[int] | None = None, language: int | None = None
    ) -> list[Found]:
        prompt = prompt_of(self._model, previous, language)
        parts = pieces(encoded.values, self._search.capacity)
        return [each for states in parts for each in self._piece(states, prompt)]

    @torch.inference_mode()
    def languages(self, encoded: EncoderOutput) -> list[int]:
        parts = pieces(encoded.values, self._search.capacity)
        return [each for states in parts for each in self._search.hear_languages(states).tolist()]

    def _piece(self, states: torch.Tensor, prompt: Prompt) -> list[Found]:
        count, length = len(states), len(prompt.tokens)
        room = self._model.rules.room(length)
        self._search.begin(states, prompt)
        steps = 1
        while steps < room and not bool(self._search.ended(count).all()):  # the synchronization
            self._search.step(count, length + steps)
            steps += 1
        found = self._search.found(count, steps)
        self._windows += count
        self._steps += steps
        self._tokens += sum(len(each.tokens) for each in found)
        return found

    def evidence(self) -> Evidence:
        return {
            "windows": self._windows,
            "tokens": self._tokens,
            "steps": self._steps,
            "host_syncs": self._steps,
        }
