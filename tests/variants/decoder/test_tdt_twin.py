"""The logic of the 1,300 lines of CUDA where there is no GPU: their Python twin, held to ``cpu_synced``."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.protocols import EncoderOutput, FeatureBatch, Hypothesis, ShapePlan
from tests.variants.decoder import tdt_twin as twin
from tests.variants.models.small import small_model
from variants.decoder import cpu_synced
from variants.decoder.gpu.decoding import hypotheses
from variants.encoder import eager
from variants.models import parakeet_tiny
from variants.models.options import ModelOptions
from variants.models.synthetic import calibration_features
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel

CUDA = (Path(cpu_synced.__file__).parent / "gpu" / "tdt.cuh").read_text()
CONTEXTS = 7


# ---------------------------------------------------------------- a transducer of random logits


class TablePrednet(torch.nn.Module):
    """Its state is one of ``CONTEXTS``, moved by every label."""

    def predict(
        self, labels: torch.Tensor, state: Any, add_sos: bool, batch_size: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        assert not add_sos and labels.shape == (batch_size, 1)
        before = torch.zeros(1, batch_size, 1) if state is None else state[0]
        moved = labels.T[..., None].float()
        context = before if state is None else (5 * before + moved + 1) % CONTEXTS  # [1, B, 1]
        return context[0][:, None], (context, context)


class TableJoint(torch.nn.Module):
    """Logits ``[rows, frames, CONTEXTS, V + 1 + durations]``, whole numbers: ties are common."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def project_encoder(self, states: torch.Tensor) -> torch.Tensor:
        return states

    def project_prednet(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def joint_after_projection(self, states: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        row, frame = states[:, 0, 0].long(), states[:, 0, 1].long()
        return self.logits[row, frame, prediction[:, 0, 0].long()][:, None, None]


def table_model(logits: np.ndarray, labels: int, durations: tuple[int, ...], max_symbols: int) -> TdtModel:
    return TdtModel(
        name="table",
        encoder=torch.nn.Identity(),
        prednet=TablePrednet(),
        joint=TableJoint(logits),
        tokenizer=SyntheticTokenizer(30),
        device=torch.device("cpu"),
        dtype=torch.float32,
        durations=durations,
        blank_id=labels,
        max_symbols=max_symbols,
        frame_s=0.08,
        feature_bins=1,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A call: what the networks say, and how the kernels were built and launched."""

    model: TdtModel
    encoded: EncoderOutput
    slots: int
    columns: int
    lookahead: int
    unroll: int


@st.composite
def cases(draw: st.DrawFn, many: int = 90) -> Case:
    """From all blank to labels without end, from one slot to more than a warp has lanes; every third has
    more utterances than slots of two warps."""
    rows = draw(st.integers(1, 12) | st.integers(1, 12) | st.integers(min(many, 60), many))
    frames = draw(st.integers(1, 10 if rows <= 12 else 4))
    labels = draw(st.integers(1, 4))
    durations = draw(st.sampled_from([(0, 1, 2, 3, 4), (0, 1), (1, 2, 4), (0, 4)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.integers(-3, 4, (rows, frames, CONTEXTS, labels + 1 + len(durations))).astype(np.float32)
    logits[..., labels] += draw(st.sampled_from([-20, -2, 0, 2, 4, 20]))  # blank
    logits[..., labels + 1] += draw(st.sampled_from([-4, 0, 4]))  # the first duration
    model = table_model(logits, labels, durations, max_symbols=draw(st.integers(1, 4)))
    lengths = rng.integers(0, frames + 1, rows)
    return Case(
        model,
        table_states(rows, range(frames), lengths),
        slots=draw(st.sampled_from([1, 2, 3, 8, 31, 32, 40, 64])),
        columns=draw(st.sampled_from([1, 2, 8, 16, 100])),
        lookahead=draw(st.sampled_from([1, 2, 4, 8])),
        unroll=draw(st.sampled_from([1, 2, 8])),
    )


def table_states(rows: int, frames: range, lengths: np.ndarray) -> EncoderOutput:
    """States that say which row and frame they are: ``[rows, frames, 2]``."""
    row, frame = np.meshgrid(np.arange(rows), np.array(frames), indexing="ij")
    return EncoderOutput(
        torch.from_numpy(np.stack([row, frame], axis=-1)).float(), torch.from_numpy(lengths.astype(np.int64))
    )


# ---------------------------------------------------------------- the twin over a model's own modules


class ModelNetworks:
    """``twin.Networks`` over a model."""

    def __init__(self, model: TdtModel, encoded: EncoderOutput) -> None:
        self._model = model
        self._joint: Any = model.joint
        self._projected = self._joint.project_encoder(encoded.values)

    def joint(self, columns: Sequence[tuple[int, int, Any]]) -> list[tuple[int, int]]:
        utterances, frames, predictions = zip(*columns, strict=True)
        states = self._projected[list(utterances), list(frames)][:, None]  # [columns, 1, H]
        logits = self._joint.joint_after_projection(states, torch.cat(predictions))[:, 0, 0]
        count = len(self._model.durations)
        best = logits[:, :-count].argmax(dim=-1), logits[:, -count:].argmax(dim=-1)
        return list(zip(*(indices.tolist() for indices in best), strict=True))

    def predict(self, labels: Sequence[int], states: Sequence[Any]) -> list[tuple[Any, Any]]:
        before = (
            None if states[0] is None else tuple(torch.cat(each, dim=1) for each in zip(*states, strict=True))
        )
        prednet: Any = self._model.prednet
        output, (hidden, cell) = prednet.predict(
            torch.tensor(labels)[:, None], before, add_sos=False, batch_size=len(labels)
        )
        predictions = self._joint.project_prednet(output)
        return [
            (predictions[i : i + 1], (hidden[:, i : i + 1], cell[:, i : i + 1])) for i in range(len(labels))
        ]


def start_row(networks: ModelNetworks, model: TdtModel) -> twin.Row:
    ((prediction, lstm),) = networks.predict([model.blank_id], [None])
    return twin.Row(lstm, prediction)


@torch.inference_mode()
def run(case: Case, start: list[twin.Row] | None = None) -> tuple[list[Hypothesis], twin.Batch]:
    """The twin's hypotheses, through the log that the kernels write, and all else it left."""
    networks = ModelNetworks(case.model, case.encoded)
    batch = twin.Batch(
        lengths=case.encoded.lengths.tolist(),
        initial_state=start or [start_row(networks, case.model)],
        slots=case.slots,
        columns=case.columns,
        max_lookahead_shift=case.lookahead.bit_length() - 1,
        durations=case.model.durations,
        blank=case.model.blank_id,
        max_symbols=case.model.max_symbols,
    )
    for control in twin.decode(networks, batch, case.unroll):
        assert control.active_count <= len(control.slot)
        assert control.lookahead_shift == 0 or twin.column_count(control) <= case.columns
    log = np.array([batch.log[place] for place in range(len(batch.log))], dtype=np.int64)
    return hypotheses(log, batch.utterances), batch


def check(case: Case) -> list[Hypothesis]:
    """Tokens, frames and durations exact, and every stream left where the host-driven search leaves it."""
    expected = cpu_synced.build(case.model, {}, ShapePlan((), 1)).decode(case.encoded)
    found, batch = run(case)
    assert found == expected.hypotheses
    rows = [batch.state[utterance] for utterance in range(batch.utterances)]
    assert [row.overrun for row in rows] == expected.state.overrun.tolist()
    torch.testing.assert_close(torch.cat([row.prediction for row in rows]), expected.state.prediction)
    torch.testing.assert_close(torch.cat([row.lstm[1] for row in rows], dim=1), expected.state.lstm[1])
    assert batch.report[0] == sum(len(hypothesis.tokens) for hypothesis in found)
    return found


# ---------------------------------------------------------------- the search


@settings(max_examples=80, deadline=None)
@given(cases())
def test_random_logits_give_the_tokens_of_the_host_driven_search(case: Case) -> None:
    check(case)


@settings(max_examples=30, deadline=None)
@given(cases(many=12), st.data())
def test_streams_go_on_where_they_stopped(case: Case, data: st.DataObject) -> None:
    rows, frames = case.encoded.values.shape[:2]
    cut = data.draw(st.integers(1, frames))
    decoder = cpu_synced.build(case.model, {}, ShapePlan((), 1))
    state, start = None, None
    for part in (range(cut), range(cut, frames)):
        chunk = dataclasses.replace(case, encoded=table_states(rows, part, np.full(rows, len(part))))
        expected = decoder.decode(chunk.encoded, state)
        found, batch = run(chunk, start)
        assert found == expected.hypotheses
        state = expected.state
        start = [batch.state[utterance] for utterance in range(rows)]
        assert [row.overrun for row in start] == state.overrun.tolist()


def test_neither_slots_nor_windows_nor_unrolling_change_the_answer() -> None:
    model = small_model()
    torch.manual_seed(1)
    lengths = torch.tensor([40, 0, 1, 17, 33, 40, 8, 25, 3])
    encoded = EncoderOutput(torch.randn(len(lengths), 40, 24), lengths)
    for slots, columns, lookahead, unroll in ((1, 1, 1, 1), (2, 16, 8, 8), (9, 16, 4, 1), (64, 100, 8, 3)):
        labels = check(Case(model, encoded, slots, columns, lookahead, unroll))
    assert sum(len(each.tokens) for each in labels) > 50


def test_a_run_of_blanks_takes_one_step_for_each_window() -> None:
    logits = np.zeros((1, 60, CONTEXTS, 4), dtype=np.float32)
    logits[..., 1] = 1.0  # blank, which skips one frame
    model = table_model(logits, labels=1, durations=(0, 1), max_symbols=3)
    encoded = table_states(1, range(60), np.array([60]))
    steps = {}
    for lookahead in (1, 2, 4, 8):
        _, batch = run(Case(model, encoded, slots=1, columns=8, lookahead=lookahead, unroll=1))
        steps[lookahead] = batch.report[1]
    assert steps == {1: 60, 2: 30, 4: 15, 8: 8}


def test_trained_weights_on_speech() -> None:
    model = parakeet_tiny.build(ModelOptions("parakeet_tiny", weights="embedded", device="cpu"))
    features = calibration_features()[:5]
    lengths = np.linspace(40, features.shape[2], len(features)).astype(np.int64)
    encoder = eager.build(model, {}, ShapePlan((), len(features)))
    encoded = encoder.encode(FeatureBatch(features, lengths))
    labels = check(Case(model, encoded, slots=3, columns=16, lookahead=8, unroll=8))
    assert sum(len(each.tokens) for each in labels) > 20


# ---------------------------------------------------------------- its parts


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=40))
def test_the_greatest_candidate_is_the_first_greatest_logit(logits: list[float]) -> None:
    values = np.array(logits, dtype=np.float16)
    best = max(twin.candidate(value, index) for index, value in enumerate(values))
    assert twin.candidate_index(best) == int(values.argmax())
    assert best > 0  # zero is "no candidate"


@given(st.integers(1, 200), st.integers(0, 131))
def test_every_block_visits_every_tile_once(columns: int, block: int) -> None:
    visited = twin.column_tiles(columns, block)
    assert sorted(visited) == list(range(0, columns, 8))


@given(st.integers(1, 2000), st.integers(1, 132), st.integers(1, 8), st.integers(0, 132))
def test_every_column_is_chosen_by_one_block(columns: int, blocks: int, warps: int, units: int) -> None:
    chosen = Counter(
        column
        for block in range(blocks)
        for column in twin.chosen_by(columns, block, blocks, warps, min(units, blocks))
    )
    assert chosen == Counter(range(columns))


# ---------------------------------------------------------------- still the twin of that file


def fields_of(struct: str) -> list[str]:
    body = re.sub(r"//.*", "", re.search(rf"struct {struct} {{(.*?)\n}};", CUDA, re.DOTALL).group(1))  # type: ignore[union-attr]
    return re.findall(r"\w+ (\w+)(?:\[\w+\])?;", body)


@pytest.mark.parametrize("struct", [twin.Slot, twin.Found, twin.Control, twin.Column])
def test_structures_have_the_fields_of_the_cuda_ones(struct: Any) -> None:
    ours = {field.name for field in dataclasses.fields(struct)}
    theirs = set(fields_of(struct.__name__)) - {"reserved", "states"}
    assert ours - {"frame"} == theirs - {"frame"}


@pytest.mark.parametrize(
    "function",
    [
        "candidate", "candidate_index", "initial_row", "column_count", "make_choice", "begin_utterance",
        "choose_lookahead", "begin_control", "replace_finished", "advance_control", "report_run",
        "joint_column",
    ],
)  # fmt: skip
def test_functions_have_the_names_of_the_cuda_ones(function: str) -> None:
    assert callable(getattr(twin, function))
    assert re.search(rf"\b{function}\(", CUDA)


def test_the_graph_reserves_as_many_words_as_the_control_has() -> None:
    scalars = [name for name in fields_of("Control") if name not in ("active", "assigned", "found", "slot")]
    words = len(scalars) + 2  # reserved[3]
    by_slot = 2 + len(fields_of("Found")) + len(fields_of("Slot"))
    source = (Path(cpu_synced.__file__).parent / "conditional_graph" / "__init__.py").read_text()
    assert f"control_words = {words} + {by_slot} * shape.slots" in source
