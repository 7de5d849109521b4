"""One call of a GPU decoder: from encoder states to hypotheses, the same for both of our decoders.

The encoder's states are projected for the joint by one matrix product. The search itself is one launch,
whatever the batch. Its results are written to pinned host memory as they are found, and the host waits
once, at the end.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn.functional import linear

from harness.errors import UsageError
from harness.protocols import Decoded, Hypothesis
from variants.decoder.gpu.packing import initial_recurrent

if TYPE_CHECKING:
    from harness.protocols import EncoderOutput, Evidence
    from variants.decoder.gpu.shape import KernelShape
    from variants.decoder.weights import TdtWeights
    from variants.models.types import TdtModel

_REPORT_WORDS = 16
_ROW_TAIL = 8
_MAX_BATCH, _MAX_FRAMES = 1 << 16, 1 << 24


class BatchArguments(ctypes.Structure):
    """``struct Batch`` of ``tdt.cuh``."""

    _fields_ = (
        ("projected", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("initial_state", ctypes.c_void_p),
        ("initial_recurrent", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("log", ctypes.c_void_p),
        ("report", ctypes.c_void_p),
        ("utterances", ctypes.c_int),
        ("frames", ctypes.c_int),
        ("initial_rows", ctypes.c_int),
        ("slots", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("max_lookahead_shift", ctypes.c_int),
    )


class Launcher(Protocol):
    """Runs the search of one call on a stream."""

    def launch(self, batch: BatchArguments, stream: int) -> None: ...

    def finished(self, report: RunReport) -> None:
        """Called when the host has seen the end of a call."""
        ...

    def evidence(self) -> Evidence: ...


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where each stream of a batch stands between two chunks, in one row per stream.

    A row is what the kernels write: hidden and cell state of each layer, the prediction network's output
    projected for the joint, and ``_ROW_TAIL`` numbers' room whose first four bytes are the overrun.
    """

    rows: torch.Tensor  # [B, 2LH + J + 8]

    @property
    def overrun(self) -> torch.Tensor:
        """Frames of the next chunk that the last duration has skipped: int32 ``[B]``."""
        return self.rows[:, -_ROW_TAIL : 2 - _ROW_TAIL].contiguous().view(torch.int32).squeeze(1)

    def select(self, rows: torch.Tensor) -> StreamState:
        return StreamState(self.rows[rows])

    def assign(self, rows: torch.Tensor, states: StreamState) -> None:
        self.rows[rows] = states.rows


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the search did in one call (``report_run`` in ``tdt.cuh``, then the launcher's own words)."""

    labels: int
    steps: int
    label_steps: int
    columns: int
    rest: tuple[int, ...]


class PinnedLog:
    """Host memory that kernels write: one word per label, and a report."""

    def __init__(self, capacity: int) -> None:
        self.report = torch.zeros(_REPORT_WORDS, dtype=torch.int64, pin_memory=True)
        self._report_view = self.report.numpy()
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` labels; only between calls."""
        self.labels = torch.empty(capacity, dtype=torch.int64, pin_memory=True)
        self._label_view = self.labels.numpy()

    @property
    def capacity(self) -> int:
        return int(self.labels.shape[0])

    def read_report(self) -> RunReport:
        labels, steps, label_steps, columns, *rest = self._report_view.tolist()
        return RunReport(labels, steps, label_steps, columns, tuple(rest))

    def read_labels(self, count: int) -> np.ndarray:
        return self._label_view[:count]


class SearchTotals:
    """Counts over all calls, for the evidence."""

    def __init__(self) -> None:
        self.calls = self.utterances = self.labels = self.steps = self.label_steps = self.columns = 0

    def add(self, utterances: int, report: RunReport) -> None:
        self.calls += 1
        self.utterances += utterances
        self.labels += report.labels
        self.steps += report.steps
        self.label_steps += report.label_steps
        self.columns += report.columns

    def evidence(self) -> dict[str, int]:
        return {
            "calls": self.calls,
            "utterances": self.utterances,
            "labels": self.labels,
            "joint_steps": self.steps,
            "label_steps": self.label_steps,
            "joint_columns": self.columns,
            "host_syncs": self.calls,
            "host_round_trips_in_loop": 0,
        }


class GpuDecoder:
    """``harness.protocols.Decoder`` over a ``Launcher``."""

    def __init__(
        self,
        model: TdtModel,
        weights: TdtWeights,
        shape: KernelShape,
        launcher: Launcher,
        *,
        columns: int,
        lookahead: int,
    ) -> None:
        self._weights, self._shape, self._launcher, self._columns = weights, shape, launcher, columns
        self._lookahead = lookahead
        self._device = model.device
        self._start_rows = _state_after_start(model, shape)  # [1, 2LH + J + 8]
        self._start_recurrent = self._recurrent(self._start_rows)
        self._log = PinnedLog(1 << 16)
        self.totals = SearchTotals()
        self.last_report: RunReport | None = None  # its `rest` holds the cycles of a profiled block

    def evidence(self) -> Evidence:
        return {**self.totals.evidence(), **self._launcher.evidence()}

    def start(self, rows: int) -> StreamState:
        """Of streams that have heard nothing yet."""
        return StreamState(self._start_rows.repeat(rows, 1))

    @torch.inference_mode()
    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        """Decode ``encoded.values [B, T, D]``; ``state`` is a ``StreamState`` of the same batch or None.

        ``Hypothesis.frames`` count from the first frame of this chunk.
        """
        batch, frames = encoded.values.shape[:2]
        if state is not None:
            _check_state(state, batch)
        if batch == 0:
            return Decoded([], state)
        self._make_room(batch, frames)
        stream = torch.cuda.current_stream(self._device)
        search = self._enqueue(encoded, state, stream.cuda_stream)
        stream.synchronize()
        report = self._log.read_report()
        self.last_report = report
        self._launcher.finished(report)
        self.totals.add(batch, report)
        return Decoded(hypotheses(self._log.read_labels(report.labels), batch), search)

    def _enqueue(self, encoded: EncoderOutput, state: StreamState | None, stream: int) -> StreamState:
        """Everything before the wait; the streams' state as it will be."""
        batch, frames = encoded.values.shape[:2]
        encoder = self._weights.encoder
        projected = linear(encoded.values.to(encoder.weight.dtype), encoder.weight, encoder.bias).contiguous()
        lengths = encoded.lengths.to(device=self._device, dtype=torch.int64)
        start = self._start_rows if state is None else state.rows
        recurrent = self._start_recurrent if state is None else self._recurrent(state.rows)
        rows = torch.empty(batch, start.shape[1], dtype=start.dtype, device=self._device)
        arguments = BatchArguments(
            projected=projected.data_ptr(),
            lengths=lengths.data_ptr(),
            initial_state=start.data_ptr(),
            initial_recurrent=recurrent.data_ptr(),
            state=rows.data_ptr(),
            log=self._log.labels.data_ptr(),
            report=self._log.report.data_ptr(),
            utterances=batch,
            frames=frames,
            initial_rows=start.shape[0],
            slots=min(batch, self._shape.slots),
            columns=self._columns,
            max_lookahead_shift=self._lookahead.bit_length() - 1,
        )
        self._launcher.launch(arguments, stream)
        return StreamState(rows)

    def _make_room(self, batch: int, frames: int) -> None:
        if batch >= _MAX_BATCH or frames >= _MAX_FRAMES:
            raise UsageError(
                f"a batch of {batch} x {frames} frames is too large: at most {_MAX_BATCH - 1} utterances"
            )
        needed = batch * max(frames, 1) * self._shape.max_symbols
        if needed > self._log.capacity:
            self._log.grow(needed)

    def _recurrent(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = rows[:, : self._shape.layers * self._shape.hidden]
        return initial_recurrent(self._weights, hidden.reshape(-1, self._shape.layers, self._shape.hidden))


def _check_state(state: Any, batch: int) -> None:
    if not isinstance(state, StreamState):
        raise TypeError(f"decoder state is {type(state).__name__}: pass the Decoded.state of this decoder")
    if state.rows.shape[0] != batch:
        raise ValueError(f"decoder state holds {state.rows.shape[0]} streams, the batch {batch}")


@torch.inference_mode()
def _state_after_start(model: TdtModel, shape: KernelShape) -> torch.Tensor:
    """State row ``[1, 2LH + J + 8]`` after the start symbol (blank), by the model's own modules."""
    prednet: Any = model.prednet
    joint: Any = model.joint
    blank = torch.full((1, 1), model.blank_id, dtype=torch.int64, device=model.device)
    output, (hidden, cell) = prednet.predict(blank, None, add_sos=False, batch_size=1)
    projected = joint.project_prednet(output)  # [1, 1, J]
    parts = [part.reshape(1, -1) for part in (hidden, cell, projected)]
    row = torch.cat([*parts, torch.zeros_like(parts[0][:, :_ROW_TAIL])], dim=1)
    if row.shape[1] != shape.state_width + _ROW_TAIL:
        raise UsageError(
            f"model {model.name}: its start state has {row.shape[1] - _ROW_TAIL} numbers, "
            f"not {shape.state_width}"
        )
    return row


def hypotheses(log: np.ndarray, batch: int) -> list[Hypothesis]:
    """Sort a call's log by utterance. A word: utterance, token (16 bits each), frame (24), duration (8)."""
    utterances = (log >> 48).astype(np.uint16)  # numpy sorts sixteen bits by radix
    if batch > 1:
        order = np.argsort(utterances, kind="stable")  # within an utterance the log is in order
        log = log[order]
        bounds = np.searchsorted(utterances[order], np.arange(batch + 1)).tolist()
    else:
        bounds = [0, len(log)]
    tokens = ((log >> 32) & 0xFFFF).tolist()
    frames = ((log >> 8) & 0xFFFFFF).tolist()
    durations = (log & 0xFF).tolist()
    return [
        Hypothesis(tuple(tokens[a:b]), tuple(frames[a:b]), tuple(durations[a:b])) for a, b in pairwise(bounds)
    ]
