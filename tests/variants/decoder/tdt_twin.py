"""The control of both GPU decoders again in Python: ``tdt.cuh`` function by function, under the same names.

Read it beside the CUDA. What a warp does in lockstep is a loop over its lanes, with the same ballots and
ranks between the phases; what lies in device memory is a list. The networks are whoever's: a step asks them
for the best label and duration of its columns, and for the predictions after its labels. ``decode`` is the
loop of ``kernel.cu`` (with ``unroll=1``) and of ``kernels.cu`` (whose graph unrolls its body).

What cannot happen on the device without a hang or a wrong answer raises here: a column that waits for a
prediction that nobody publishes, a window read beyond its utterance, an index beyond its array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

LANES = 32


class Networks(Protocol):
    """Joint and prediction network."""

    def joint(self, columns: Sequence[tuple[int, int, Any]]) -> Sequence[tuple[int, int]]:
        """Indices of the best label and the best duration, of each (utterance, frame, prediction)."""
        ...

    def predict(self, labels: Sequence[int], states: Sequence[Any]) -> Sequence[tuple[Any, Any]]:
        """The projected prediction after each label, and the LSTM's new state."""
        ...


# ------------------------------------------------------------------------------------ the best token


def candidate(logit: np.float16, index: int) -> int:
    bits = int(logit.view(np.uint16))
    if bits == 0x8000:
        bits = 0  # minus zero equals zero
    ordered = (~bits & 0xFFFF) if bits & 0x8000 else (bits | 0x8000)
    return (ordered << 16) | (0xFFFF - index)


def candidate_index(word: int) -> int:
    return 0xFFFF - (word & 0xFFFF)


# ------------------------------------------------------------------------------------ one call's data


@dataclass(frozen=True)
class Row:
    """One utterance's state."""

    lstm: Any
    prediction: Any
    overrun: int = 0


@dataclass
class Batch:
    lengths: Sequence[int]
    initial_state: Sequence[Row]  # one for all, or one of each utterance
    slots: int
    columns: int
    max_lookahead_shift: int
    durations: tuple[int, ...]
    blank: int
    max_symbols: int
    state: dict[int, Row] = field(default_factory=dict)  # out
    log: dict[int, int] = field(default_factory=dict)  # out, by place
    report: tuple[int, int, int, int] = (0, 0, 0, 0)  # out

    @property
    def utterances(self) -> int:
        return len(self.lengths)


def initial_row(batch: Batch, utterance: int) -> Row:
    return batch.initial_state[0 if len(batch.initial_state) == 1 else utterance]


# ------------------------------------------------------------------------------------ control


@dataclass
class Slot:
    utterance: int
    frame: int
    length: int
    last_frame: int
    symbols: int
    prediction: int


@dataclass(frozen=True)
class Found:
    slot: int
    label: int
    utterance: int


@dataclass
class Control:
    active_count: int
    found_count: int
    assigned_count: int
    lookahead_shift: int
    next_utterance: int
    log_count: int
    steps: int
    label_steps: int
    columns: int
    active: list[int]
    assigned: list[int]
    found: list[Found]
    slot: list[Slot]


def column_count(c: Control) -> int:
    return c.active_count << c.lookahead_shift


def make_choice(batch: Batch, label: int, duration: int) -> int:
    skip = batch.durations[duration]
    if label == batch.blank:
        skip = max(skip, 1)
    return label | skip << 16


def begin_utterance(batch: Batch, utterance: int) -> Slot:
    overrun = initial_row(batch, utterance).overrun
    return Slot(utterance, overrun, batch.lengths[utterance], -1, 0, 0)


def choose_lookahead(batch: Batch, active: int) -> int:
    shift = batch.max_lookahead_shift
    while shift > 0 and (active << shift) > batch.columns:
        shift -= 1
    return shift


def begin_control(batch: Batch) -> Control:
    count = min(batch.slots, batch.utterances)
    return Control(
        active_count=count,
        found_count=0,
        assigned_count=count,
        lookahead_shift=choose_lookahead(batch, count),
        next_utterance=count,
        log_count=0,
        steps=0,
        label_steps=0,
        columns=0,
        active=list(range(count)),
        assigned=list(range(count)),
        found=[Found(-1, -1, -1)] * count,
        slot=[begin_utterance(batch, slot) for slot in range(count)],
    )


def ballot(votes: Sequence[bool]) -> int:
    """``__ballot_sync``: lanes that are not there vote no."""
    return sum(1 << lane for lane, vote in enumerate(votes) if vote)


def rank(votes: int, lane: int) -> int:
    """How many lanes below have voted yes."""
    return (votes & ((1 << lane) - 1)).bit_count()


def replace_finished(
    c: Control, batch: Batch, finished: int, slots: Sequence[int], next_utterance: int, assigned_count: int
) -> tuple[list[bool], int, int]:
    """Whether each lane's slot goes on, the next utterance, and how many were assigned."""
    done = [bool(finished >> lane & 1) for lane in range(len(slots))]
    for lane, slot in enumerate(slots):
        if done[lane]:
            s = c.slot[slot]
            batch.state[s.utterance] = replace(batch.state[s.utterance], overrun=s.frame - s.length)
    following = [next_utterance + rank(finished, lane) for lane in range(len(slots))]
    takes = [done[lane] and following[lane] < batch.utterances for lane in range(len(slots))]
    takers = ballot(takes)
    for lane, slot in enumerate(slots):
        if takes[lane]:
            c.slot[slot] = begin_utterance(batch, following[lane])
            c.assigned[assigned_count + rank(takers, lane)] = slot
    next_utterance = min(next_utterance + finished.bit_count(), batch.utterances)
    assigned_count += takers.bit_count()
    stays = [not done[lane] or takes[lane] for lane in range(len(slots))]
    return stays, next_utterance, assigned_count


def walk(batch: Batch, s: Slot, window: Sequence[int | None], shift: int) -> tuple[int, int, int, bool]:
    """Frame, label and skip where the walk through a window ends, and whether with a label."""
    first = s.frame
    end = min(s.length, first + (1 << shift))
    frame, label, skip = first, batch.blank, 0
    while frame < end:
        choice = window[frame - first]
        if choice is None:
            raise RuntimeError(f"frame {frame} of utterance {s.utterance} was not evaluated")
        label, skip = choice & 0xFFFF, choice >> 16
        if label != batch.blank:
            break
        frame += skip
    return frame, label, skip, label != batch.blank and frame < end


def advance_control(c: Control, batch: Batch, choices: Sequence[int | None], step: int) -> None:
    count, shift, log_count = c.active_count, c.lookahead_shift, c.log_count
    found_count = assigned_count = active_count = 0
    next_utterance = c.next_utterance
    for base in range(0, count, LANES):
        lanes = range(min(LANES, count - base))
        slots = [c.active[base + lane] for lane in lanes]
        walks = [walk(batch, c.slot[slots[i]], choices[(base + i) << shift :], shift) for i in lanes]
        finders = ballot([found for *_, found in walks])
        for lane, (frame, label, skip, found) in enumerate(walks):
            s = c.slot[slots[lane]]
            if found:
                place = found_count + rank(finders, lane)
                c.found[place] = Found(slots[lane], label, s.utterance)
                batch.log[log_count + place] = s.utterance << 48 | label << 32 | frame << 8 | skip
                symbols = s.symbols + 1 if s.last_frame == frame else 1
                s.symbols = symbols
                s.last_frame = frame
                s.prediction = step
                frame += 1 if skip == 0 and symbols >= batch.max_symbols else skip
            s.frame = frame
        found_count += finders.bit_count()
        finished = ballot([c.slot[slot].frame >= c.slot[slot].length for slot in slots])
        stays = [True] * len(slots)
        if finished:
            stays, next_utterance, assigned_count = replace_finished(
                c, batch, finished, slots, next_utterance, assigned_count
            )
        staying = ballot(stays)
        for lane in lanes:
            if stays[lane]:
                c.active[active_count + rank(staying, lane)] = slots[lane]  # never beyond what was read
        active_count += staying.bit_count()
    c.found_count = found_count
    c.active_count = active_count
    c.assigned_count = assigned_count
    c.next_utterance = next_utterance
    c.log_count = log_count + found_count
    c.steps += count > 0
    c.label_steps += found_count > 0
    c.columns += count << shift
    c.lookahead_shift = choose_lookahead(batch, active_count)


def report_run(c: Control, batch: Batch) -> None:
    batch.report = (c.log_count, c.steps, c.label_steps, c.columns)


# ------------------------------------------------------------------------------------ a column of the joint


@dataclass(frozen=True)
class Column:
    valid: bool
    slot: int
    utterance: int
    frame: int
    prediction: int


def joint_column(c: Control, column: int) -> Column:
    shift = c.lookahead_shift
    slot = c.active[column >> shift]
    at = c.slot[slot]
    frame = at.frame + (column & ((1 << shift) - 1))
    return Column(frame < at.length, slot, at.utterance, frame, at.prediction)


# ---------------------------------------------------------------------------------- the loop of both kernels


@dataclass
class Memory:
    """What is kept by slot between steps; a prediction with the number of the step that published it."""

    lstm: dict[int, Any] = field(default_factory=dict)
    prediction: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def await_prediction(self, column: Column) -> Any:
        """``Incoming.await``: the words of that step, or a poll that never ends."""
        step, value = self.prediction[column.slot]
        if step != column.prediction:
            raise RuntimeError(f"slot {column.slot} waits for step {column.prediction}, step {step} is there")
        return value


def joint_step(c: Control, batch: Batch, m: Memory, networks: Networks) -> list[int | None]:
    """``joint_step`` and ``collect_choices``, or ``evaluate_joint``: the choice of every valid column."""
    columns = [joint_column(c, number) for number in range(column_count(c))]
    valid = [column for column in columns if column.valid]
    asked = [(column.utterance, column.frame, _prediction(batch, m, column)) for column in valid]
    found = iter(networks.joint(asked)) if asked else iter(())
    return [make_choice(batch, *next(found)) if column.valid else None for column in columns]


def _prediction(batch: Batch, m: Memory, column: Column) -> Any:
    if not column.prediction:
        return initial_row(batch, column.utterance).prediction
    return m.await_prediction(column)


def load_assigned(batch: Batch, c: Control, m: Memory) -> None:
    for slot in c.assigned[: c.assigned_count]:
        row = initial_row(batch, c.slot[slot].utterance)
        m.lstm[slot] = row.lstm
        batch.state[c.slot[slot].utterance] = replace(row, overrun=0)


def label_step(c: Control, batch: Batch, m: Memory, networks: Networks, step: int) -> None:
    """``first_layer``, ``upper_stage`` and ``finish_prediction``, or ``upper_layer`` and ``project``."""
    found = c.found[: c.found_count]
    if not found:
        return
    stepped = networks.predict([f.label for f in found], [m.lstm[f.slot] for f in found])
    for f, (prediction, lstm) in zip(found, stepped, strict=True):
        m.lstm[f.slot], m.prediction[f.slot] = lstm, (step, prediction)
        row = batch.state[f.utterance]
        batch.state[f.utterance] = replace(row, lstm=lstm, prediction=prediction)


def decode(networks: Networks, batch: Batch, unroll: int = 1) -> Iterator[Control]:
    """The search; yields its control after every step. ``unroll`` steps for each look at the condition."""
    c, m, step = begin_control(batch), Memory(), 1
    while c.active_count > 0:
        for _ in range(unroll):
            choices = joint_step(c, batch, m, networks)
            load_assigned(batch, c, m)
            advance_control(c, batch, choices, step)
            label_step(c, batch, m, networks, step)
            step += 1
            yield c
    report_run(c, batch)


# -------------------------------------------------------------------------------- who does what in kernel.cu


def column_tiles(columns: int, block: int) -> list[int]:
    """The order in which a block visits the tiles of eight columns (``joint_step``)."""
    end = (columns + 7) & ~7
    first = block % (end // 8) * 8 if columns > 8 else 0
    visited = []
    for _left in range(end, 0, -8):
        visited.append(first)
        first = first + 8 if first + 8 < end else 0
    return visited


def chosen_by(columns: int, block: int, blocks: int, warps: int, unit_blocks: int) -> list[int]:
    """The columns whose candidates a block reduces for all (``collect_choices``)."""
    mine = (block - unit_blocks + blocks) % blocks
    return [
        column for warp in range(warps) for column in range(mine + warp * blocks, columns, warps * blocks)
    ]
