"""NeMo's own label-looping TDT decoder, in one forced mode: the reference and the peer.

``full_graph`` is one CUDA graph with conditional nodes, ``no_while_loops`` graphs with the loops on the
host, ``no_graphs`` the same code without graphs, ``torch_impl`` the pure PyTorch search (the only one that
runs on a CPU). NeMo falls back silently from the first to the second and captures anew whenever batch or
time grows; here the mode is forced, the largest planned shape is captured at once, and captures are counted.

In ``full_graph`` mode NeMo captures the bodies of its loops on streams that PyTorch's allocator does not
count as part of the capture: what the bodies allocate goes back to the common cache while the graph still
writes to it. The next capture of anything in the process begins with ``torch.cuda.empty_cache``, after which
the graph faults on memory that is gone, or overwrites whoever was given it. Here all of that mode's memory
comes from a pool that lives as long as the decoder.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import UnavailableError
from harness.protocols import Decoded, Hypothesis
from variants.decoder.options import Nemo

if TYPE_CHECKING:
    from harness.protocols import EncoderOutput, Evidence, ShapePlan
    from variants.models.types import TdtModel


_BY_ROW = ("predictor_outputs", "labels", "decoded_lengths", "time_jumps")
"""Of NeMo's state, what has the batch as its first dimension."""


def build(model: TdtModel, options: Nemo, plan: ShapePlan) -> NemoDecoder:
    """The decoder of ``model``, captured for ``plan``. Raises ``UnavailableError`` without the GPU."""
    mode = options.mode
    if mode != "torch_impl" and (model.device.type != "cuda" or not torch.cuda.is_available()):
        raise UnavailableError(
            f"decoder=nemo decoder.options.mode={mode} needs the model on an NVIDIA GPU; "
            "use decoder.options.mode=torch_impl"
        )
    decoder = NemoDecoder(model, mode)
    if mode != "torch_impl" and plan.buckets_s:
        plan.progress("capturing NeMo's decoder")
        decoder.prewarm(plan.max_batch, round(max(plan.buckets_s) / model.frame_s) + 1)
    return decoder


@dataclass(frozen=True, slots=True)
class NemoState:
    """Where each stream of a batch stands between two chunks: NeMo's ``BatchedLabelLoopingState``."""

    batched: Any

    def select(self, rows: torch.Tensor) -> NemoState:
        of, (hidden, cell) = self.batched, self.batched.predictor_states
        rest = {name: getattr(of, name)[rows] for name in _BY_ROW}
        return NemoState(replace(of, predictor_states=(hidden[:, rows], cell[:, rows]), **rest))

    def assign(self, rows: torch.Tensor, states: NemoState) -> None:
        for mine, theirs in zip(self.batched.predictor_states, states.batched.predictor_states, strict=True):
            mine[:, rows] = theirs[:, : len(rows)]  # a graph's state has as many rows as were captured
        for name in _BY_ROW:
            getattr(self.batched, name)[rows] = getattr(states.batched, name)[: len(rows)]


class NemoDecoder:
    """``harness.protocols.Decoder`` around ``GreedyBatchedTDTLabelLoopingComputer``."""

    def __init__(self, model: TdtModel, mode: str) -> None:
        from nemo.collections.asr.parts.submodules.transducer_decoding.tdt_label_looping import (
            GreedyBatchedTDTLabelLoopingComputer,
        )

        self._model, self._mode = model, mode
        self._computer: Any = GreedyBatchedTDTLabelLoopingComputer(
            decoder=model.prednet,
            joint=model.joint,
            blank_index=model.blank_id,
            durations=list(model.durations),
            max_symbols_per_step=model.max_symbols,
            include_duration=True,
            allow_cuda_graphs=mode != "torch_impl",
        )
        if mode != "torch_impl":
            self._computer.force_cuda_graphs_mode(mode)
        self._pool = torch.cuda.MemPool() if mode == "full_graph" else None
        self._captures = self._utterances = self._calls = 0
        self._captured_state: Any = None
        self._prewarmed: tuple[int, int] | None = None

    @torch.inference_mode()
    def prewarm(self, batch: int, frames: int) -> None:
        """Capture for ``batch`` utterances of ``frames`` encoder frames."""
        joint: Any = self._model.joint
        width = joint.enc.in_features
        states = torch.zeros(batch, frames, width, device=self._model.device, dtype=self._model.dtype)
        self._run(states, torch.ones(batch, dtype=torch.int64, device=self._model.device), None)
        self._prewarmed = (batch, frames)

    def evidence(self) -> Evidence:
        return {
            "mode": self._mode,
            "mode_in_use": "torch_impl"
            if self._mode == "torch_impl"
            else str(self._computer.cuda_graphs_mode),
            "full_graph": self._computer.full_graph is not None,
            "captures": self._captures,
            "prewarmed_shape": list(self._prewarmed) if self._prewarmed else None,
            "calls": self._calls,
            "utterances": self._utterances,
        }

    @torch.inference_mode()
    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        """Decode ``encoded.values [B, T, D]``; frames count from the first frame of this chunk."""
        batch = int(encoded.values.shape[0])
        self._calls += 1
        self._utterances += batch
        if batch == 0 or encoded.values.shape[1] == 0:
            return Decoded([Hypothesis(())] * batch, state)
        previous = None if state is None else state.batched
        found, following = self._run(encoded.values, encoded.lengths.to(self._model.device), previous)
        if previous is not None:  # NeMo counts frames from the beginning of the stream
            found.timestamps[:batch] -= previous.decoded_lengths[:batch].unsqueeze(1)
        return Decoded(_hypotheses(found, batch), NemoState(following))

    def start(self, rows: int) -> NemoState:
        """Of streams that have heard nothing yet."""
        return NemoState(
            self._computer._get_batched_decoding_state_after_sos(device=self._model.device, batch_size=rows)
        )

    def _run(self, states: torch.Tensor, lengths: torch.Tensor, previous: Any) -> tuple[Any, Any]:
        with self._own_memory():
            result = self._computer(states, lengths, previous)
        if self._computer.state is not self._captured_state:
            self._captured_state = self._computer.state
            self._captures += 1
        return result[0], result[1]

    def _own_memory(self) -> AbstractContextManager[None]:
        """Allocations of a call that may capture, kept from everybody else."""
        return (
            nullcontext() if self._pool is None else torch.cuda.use_mem_pool(self._pool, self._model.device)
        )


def _hypotheses(found: Any, batch: int) -> list[Hypothesis]:
    lengths = found.current_lengths[:batch].tolist()
    longest = max(lengths)
    rows = torch.stack(
        [part[:batch, :longest] for part in (found.transcript, found.timestamps, found.token_durations)]
    ).tolist()
    return [Hypothesis(*(tuple(part[row][:length]) for part in rows)) for row, length in enumerate(lengths)]
