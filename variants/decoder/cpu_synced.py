"""Greedy TDT with the host in the loop: the published baseline that the other decoders improve on.

One step evaluates the joint once for the whole batch, then the host waits for the step's labels and
durations and decides what comes next. Nothing is hidden: the cost is one synchronization per step.

Greedy TDT (Xu et al. 2023, arXiv:2304.06795, algorithm 2):
- tokens and durations are two separate argmaxes over one joint output;
- a blank advances by its duration, at least 1; a label by its duration, which may be 0 and may pass
  the end of the utterance;
- after ``max_symbols`` labels on one frame, time advances by 1;
- the prediction network steps on labels only. Its first input is blank, whose embedding is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.protocols import Decoded, Hypothesis
from harness.protocols.options import NoOptions

if TYPE_CHECKING:
    from harness.protocols import EncoderOutput, Evidence, ShapePlan
    from variants.models.types import TdtModel


def build(model: TdtModel, options: NoOptions, plan: ShapePlan) -> CpuSyncedDecoder:  # noqa: ARG001
    """The decoder of ``model``; it has no options and needs no shapes ahead of time."""
    return CpuSyncedDecoder(model)


@dataclass(frozen=True, slots=True)
class TdtState:
    """Where each stream of a batch stands between two chunks.

    A label count of the last frame is not needed: a frame is left only when no more label can come
    from it, so a chunk always begins on a frame that has emitted none.
    """

    prediction: torch.Tensor  # [B, 1, H], the prediction network's output, projected for the joint
    lstm: tuple[torch.Tensor, torch.Tensor]  # hidden and cell, each [L, B, H]
    last_labels: torch.Tensor  # int64 [B], blank before the first label
    overrun: torch.Tensor  # int64 [B], frames of the next chunk that the last duration has skipped

    def select(self, rows: torch.Tensor) -> TdtState:
        hidden, cell = self.lstm
        return TdtState(
            self.prediction[rows],
            (hidden[:, rows], cell[:, rows]),
            self.last_labels[rows],
            self.overrun[rows],
        )

    def assign(self, rows: torch.Tensor, states: TdtState) -> None:
        self.prediction[rows] = states.prediction
        for mine, theirs in zip(self.lstm, states.lstm, strict=True):
            mine[:, rows] = theirs
        self.last_labels[rows] = states.last_labels
        self.overrun[rows] = states.overrun


class CpuSyncedDecoder:
    """``harness.protocols.Decoder``: batched greedy search, one host synchronization per step."""

    def __init__(self, model: TdtModel) -> None:
        self._model = model
        self._durations = torch.tensor(model.durations, dtype=torch.int64, device=model.device)
        self._utterances = 0
        self._joint_steps = 0
        self._label_steps = 0

    def evidence(self) -> Evidence:
        return {
            "utterances": self._utterances,
            "joint_steps": self._joint_steps,
            "label_steps": self._label_steps,
            # One wait for the lengths of a call is not counted: these are the waits of the loop.
            "host_syncs": self._joint_steps,
        }

    @torch.inference_mode()
    def decode(self, encoded: EncoderOutput, state: Any = None) -> Decoded:
        """Decode ``encoded.values [B, T, D]``; ``state`` is a ``TdtState`` of the same batch or None.

        ``Hypothesis.frames`` count from the first frame of this chunk.
        """
        batch = int(encoded.values.shape[0])
        self._utterances += batch
        if batch == 0:
            return Decoded([], state)
        start = self.start(batch) if state is None else _checked(state, batch)
        search = _Search(self._model, self._durations, encoded, start)
        search.run()
        self._joint_steps += search.joint_steps
        self._label_steps += search.label_steps
        return Decoded(search.hypotheses(), search.state())

    def start(self, rows: int) -> TdtState:
        """The state after the start symbol, which is blank."""
        model = self._model
        blanks = torch.full((rows,), model.blank_id, dtype=torch.int64, device=model.device)
        prediction, lstm = _predict(model, blanks, None)
        return TdtState(prediction, lstm, blanks, torch.zeros_like(blanks))


def _checked(state: Any, batch: int) -> TdtState:
    if not isinstance(state, TdtState):
        raise TypeError(f"decoder state is {type(state).__name__}: pass the Decoded.state of this decoder")
    if state.overrun.shape[0] != batch:
        raise ValueError(f"decoder state holds {state.overrun.shape[0]} streams, the batch {batch}")
    return state


def _predict(
    model: TdtModel, labels: torch.Tensor, lstm: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """One LSTM step on ``labels [B]``: output projected for the joint ``[B, 1, H]``, and new state."""
    prednet: Any = model.prednet
    joint: Any = model.joint
    output, state = prednet.predict(labels.unsqueeze(1), lstm, add_sos=False, batch_size=labels.shape[0])
    return joint.project_prednet(output), state


class _Search:
    """One call of ``decode``. The device keeps each row's time; the host keeps a copy of it, from the
    labels and durations that it reads after every step, and decides from the copy."""

    def __init__(
        self, model: TdtModel, durations: torch.Tensor, encoded: EncoderOutput, start: TdtState
    ) -> None:
        joint: Any = model.joint
        self._model = model
        self._durations = durations
        self._projected: torch.Tensor = joint.project_encoder(encoded.values)  # [B, T, H]
        self._lengths = encoded.lengths.to(device=durations.device, dtype=torch.int64)  # [B]
        self._last_frame = (self._lengths - 1).clamp_(min=0)
        self._rows = torch.arange(self._lengths.shape[0], device=durations.device)

        self._prediction, self._lstm = start.prediction, start.lstm
        self._last_labels = start.last_labels
        self._time = start.overrun.clone()  # [B]
        self._on_frame = torch.zeros_like(self._time)  # labels emitted on the frame at `_time`

        host_lengths, host_time = torch.stack((self._lengths, self._time)).tolist()
        self._host_lengths: list[int] = host_lengths
        self._host_time: list[int] = host_time
        self._host_on_frame = [0] * len(host_time)
        self._tokens: list[list[int]] = [[] for _ in host_time]
        self._frames: list[list[int]] = [[] for _ in host_time]
        self._skips: list[list[int]] = [[] for _ in host_time]
        self.joint_steps = 0
        self.label_steps = 0

    def run(self) -> None:
        active = [row for row, time in enumerate(self._host_time) if time < self._host_lengths[row]]
        while active:
            labels, durations = self._joint_step()
            # The synchronization: the host cannot go on before the device has answered.
            host_labels, host_durations = torch.stack((labels, durations)).tolist()
            self.joint_steps += 1
            found = self._record(active, host_labels, host_durations)
            if found:
                self._label_step(labels)
                self.label_steps += 1
            self._advance(labels, durations)
            active = [row for row in active if self._host_time[row] < self._host_lengths[row]]

    def _joint_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and frames to skip, int64 ``[B]`` each, of every row at its own frame."""
        joint: Any = self._model.joint
        frames = torch.minimum(self._time, self._last_frame)
        states = self._projected[self._rows, frames].unsqueeze(1)  # [B, 1, H]
        logits = joint.joint_after_projection(states, self._prediction)[:, 0, 0]  # [B, V + 1 + durations]
        count = self._durations.shape[0]
        labels = logits[:, :-count].max(dim=-1).indices
        durations = self._durations[logits[:, -count:].argmax(dim=-1)]
        return labels, torch.where(labels == self._model.blank_id, durations.clamp(min=1), durations)

    def _record(self, active: list[int], labels: list[int], durations: list[int]) -> bool:
        """Store the labels of the active rows and move the host's clock; whether there were any."""
        blank, max_symbols = self._model.blank_id, self._model.max_symbols
        found = False
        for row in active:
            frame, label, skip = self._host_time[row], labels[row], durations[row]
            if label != blank:
                found = True
                self._tokens[row].append(label)
                self._frames[row].append(frame)
                self._skips[row].append(skip)
                self._host_on_frame[row] += 1
                if skip == 0 and self._host_on_frame[row] >= max_symbols:
                    skip = 1
            if skip:
                self._host_on_frame[row] = 0
                self._host_time[row] = frame + skip
        return found

    def _label_step(self, labels: torch.Tensor) -> None:
        """Step the LSTM; rows that found no label, or had finished, keep what they had."""
        mask = (labels != self._model.blank_id) & (self._time < self._lengths)  # [B]
        prediction, (hidden, cell) = _predict(self._model, labels, self._lstm)
        self._prediction = torch.where(mask[:, None, None], prediction, self._prediction)
        keep = mask[None, :, None]
        self._lstm = (torch.where(keep, hidden, self._lstm[0]), torch.where(keep, cell, self._lstm[1]))
        self._last_labels = torch.where(mask, labels, self._last_labels)

    def _advance(self, labels: torch.Tensor, durations: torch.Tensor) -> None:
        """The device's clock, by the same rule as the host's in ``_record``."""
        active = self._time < self._lengths
        self._on_frame += (labels != self._model.blank_id) & active
        exhausted = (durations == 0) & (self._on_frame >= self._model.max_symbols)
        skips = (durations + exhausted) * active
        self._time += skips
        self._on_frame *= skips == 0

    def hypotheses(self) -> list[Hypothesis]:
        rows = zip(self._tokens, self._frames, self._skips, strict=True)
        return [Hypothesis(tuple(tokens), tuple(frames), tuple(skips)) for tokens, frames, skips in rows]

    def state(self) -> TdtState:
        return TdtState(self._prediction, self._lstm, self._last_labels, self._time - self._lengths)
