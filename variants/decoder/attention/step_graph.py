"""Whisper's greedy search with each step as one CUDA graph: sampling and the rules are on the device.

Graphs are captured ahead for each batch size and for each stretch of the token cache that a step reads
(``_REACH`` columns, twice as many, …): a step early in the text does not read a cache that is empty still.
The host launches steps without waiting, and looks every ``poll_every`` whether all windows have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import UnavailableError, UsageError
from harness.protocols import Decoded
from variants.decoder.attention.capture import CudaGraphs, Recorder, Work
from variants.decoder.attention.search import Found, Prompt, Search, decoded, pieces, prompt_of
from variants.decoder.options import StepGraph
from variants.encoder.shapes import batch_sizes

if TYPE_CHECKING:
    from harness.protocols import BuildProgress, EncoderOutput, Evidence, ShapePlan
    from variants.models.whisper.model import AttentionModel

_REACH = 64  # columns of the cache


def build(model: AttentionModel, options: StepGraph, plan: ShapePlan) -> StepGraphDecoder:
    """The decoder of ``model``, captured for ``plan``. Raises ``UnavailableError`` without the GPU."""
    if model.device.type != "cuda":
        raise UnavailableError(
            f"decoder=step_graph captures CUDA graphs and the model is on {model.device}: use a GPU"
        )
    return StepGraphDecoder(model, options, plan.max_batch, CudaGraphs(model.device), plan.progress)


class StepGraphDecoder:
    """``harness.protocols.Decoder``, and ``WindowDecoder``. For one thread at a time."""

    def __init__(
        self,
        model: AttentionModel,
        options: StepGraph,
        max_batch: int,
        recorder: Recorder,
        progress: BuildProgress,
    ) -> None:
        self._model, self._options, self._recorder = model, options, recorder
        self._batches = batch_sizes(max_batch)
        self._search = Search(model, max_batch)
        size = model.size
        self._states = torch.zeros(
            (max_batch, size.n_audio_ctx, size.n_audio_state), dtype=model.dtype, device=model.device
        )
        self._prompt = prompt_of(model, None, None)
        self._begins: dict[int, Work] = {}
        self._steps: dict[tuple[int, int], Work] = {}
        self._capture(progress)
        self._captures = recorder.captures
        self._counts = {"windows": 0, "tokens": 0, "steps": 0, "polls": 0, "begins": 0, "rows_filled_up": 0}

    @torch.inference_mode()
    def _capture(self, progress: BuildProgress) -> None:
        """Largest batches first: what is captured later reuses the memory of what was before."""
        reaches = range(_REACH, self._model.size.n_text_ctx + _REACH, _REACH)
        for number, batch in enumerate(sorted(self._batches, reverse=True)):
            progress("capturing the decoder's steps", number, len(self._batches))
            begin = partial(self._search.begin, self._states[:batch], self._prompt)
            self._begins[batch] = self._recorder.record(begin, f"the prompt of {batch} windows")
            for reach in reaches:
                self._search.rewind()
                step = partial(self._search.step, batch, min(reach, self._model.size.n_text_ctx))
                self._steps[batch, reach] = self._recorder.record(step, f"a step of {batch} windows")

    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:  # noqa: ARG002
        """Windows are independent of each other: there is no state to go on from."""
        return decoded(self._model, self.search(encoded))

    @torch.inference_mode()
    def search(
        self, encoded: EncoderOutput, previous: Sequence[int] | None = None, language: int | None = None
    ) -> list[Found]:
        usual = previous is None and language is None
        prompt = self._prompt if usual else prompt_of(self._model, previous, language)
        parts = pieces(encoded.values, self._batches[-1])
        return [each for states in parts for each in self._piece(states, prompt)]

    @torch.inference_mode()
    def languages(self, encoded: EncoderOutput) -> list[int]:
        parts = pieces(encoded.values, self._batches[-1])
        return [each for states in parts for each in self._search.hear_languages(states).tolist()]

    def _piece(self, states: torch.Tensor, prompt: Prompt) -> list[Found]:
        """Windows ``[B, A, D]`` in the smallest batch that was captured for them."""
        count = len(states)
        if states.shape[1:] != self._states.shape[1:]:
            raise UsageError(
                f"decoder=step_graph is captured for windows of {self._states.shape[1]} states, not "
                f"{states.shape[1]}: use decoder=cpu_synced with encoder=trimmed"
            )
        batch = next(size for size in self._batches if size >= count)
        self._states[:count].copy_(states)
        self._begin(batch, prompt)
        self._search.leave_out(count, batch)
        steps = self._run(batch, len(prompt.tokens))
        found = self._search.found(count, steps)
        self._counts["windows"] += count
        self._counts["rows_filled_up"] += batch - count
        self._counts["tokens"] += sum(len(each.tokens) for each in found)
        return found

    def _begin(self, batch: int, prompt: Prompt) -> None:
        """Only the usual prompt was captured; others are of any length."""
        self._counts["begins"] += 1
        if prompt is self._prompt:
            self._begins[batch]()
        else:
            self._search.begin(self._states[:batch], prompt)

    def _run(self, batch: int, length: int) -> int:
        """Steps after a prompt of ``length`` tokens until all have ended; how many tokens there are then."""
        steps, room = 1, self._model.rules.room(length)
        while steps < room and not self._all_ended(batch):
            until = min(steps + self._options.poll_every, room)
            for chosen in range(steps, until):
                self._steps[batch, _reaching(length + chosen)]()
            self._counts["steps"] += until - steps
            steps = until
        return steps

    def _all_ended(self, batch: int) -> bool:
        self._counts["polls"] += 1
        return bool(self._search.ended(batch).all())

    def evidence(self) -> Evidence:
        after = self._recorder.captures - self._captures
        return {
            **self._counts,
            "poll_every": self._options.poll_every,
            "captures": self._captures,
            "captures_after_build": after,
            "not_engaged": f"{after} steps were captured after the build" if after else None,
        }


def _reaching(positions: int) -> int:
    """The least captured reach of so many positions."""
    return -(-positions // _REACH) * _REACH
