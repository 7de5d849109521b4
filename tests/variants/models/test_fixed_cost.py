"""The engine of fixed cost: a checksum that notices every change, and a cost that is paid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.protocols import Segment
from harness.spans import SpanRecorder
from variants.batching.types import Inference
from variants.models.fixed_cost import Checksum, Debt, FixedCostEngine, Options, build


def engine(**options: Any) -> FixedCostEngine:
    return build(SimpleNamespace(options=Options(**options)))


def speech(seed: int, seconds: float = 0.5) -> Segment:
    samples = np.random.default_rng(seed).standard_normal(round(16_000 * seconds), np.float32)
    return Segment(samples, 16_000, 0.0)


def text(*segments: Segment) -> str:
    return engine().transcribe([segments], SpanRecorder())[0].text


def test_it_computes_what_a_batching_choice_gives_it() -> None:
    assert isinstance(engine(), Inference)


def test_the_same_samples_give_the_same_text() -> None:
    assert text(speech(0), speech(1)) == text(speech(0), speech(1))


def test_any_change_of_the_samples_changes_the_text() -> None:
    a, b = speech(0), speech(1)
    flipped = a.samples.copy()
    flipped.view(np.uint32)[7] ^= 1
    texts = [text(a, b), text(b, a), text(a), text(a, b, b), text(Segment(flipped, 16_000, 0.0), b)]
    assert len(set(texts)) == len(texts)


def test_silence_has_no_text() -> None:
    assert text() == ""


def test_each_segment_has_a_hypothesis_of_its_own() -> None:
    (transcript,) = engine().transcribe([[speech(0), speech(1), speech(0)]], SpanRecorder())
    first, second, third = transcript.hypotheses
    assert first == third != second


def test_its_time_is_in_the_encoder_s_span() -> None:
    spans = SpanRecorder()
    engine(per_request_s=0.02).transcribe([[speech(0)]], spans)
    durations = {span.name: span.duration_s for span in spans.spans}
    assert list(durations) == ["encoder", "decoder"]
    assert durations["encoder"] >= 0.02


# ---------------------------------------------------------------- streams


@given(st.lists(st.integers(0, 400), max_size=8), st.integers(0, 2**32 - 1))
def test_a_stream_s_text_does_not_depend_on_its_chunks(cuts: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(400).astype(np.float32)
    stream = engine().open_stream()
    for piece in np.split(samples, sorted(cuts)):
        stream.push(piece)
    assert stream.commit().text == Checksum().updated(samples).text


def test_text_changes_as_often_as_stated_and_is_that_of_the_samples_so_far() -> None:
    samples = np.arange(16_000, dtype=np.float32)
    stream = engine(partial_every_s=0.25).open_stream()
    texts = [stream.push(chunk) for chunk in np.split(samples, 10)]
    changed = [index for index, found in enumerate(texts) if found is not None]
    assert changed == [2, 4, 7, 9]
    assert texts[4] == Checksum().updated(samples[:8000]).text


@pytest.mark.parametrize("method", ["sleep", "spin"])
def test_what_is_owed_in_small_pieces_is_paid(method: str) -> None:
    debt = Debt(method)
    for _ in range(200):
        debt.charge(0.0001)
    assert debt.paid_s >= 0.02 - 0.001


def test_the_evidence_counts_work() -> None:
    one = engine(per_audio_s=0.01)
    one.transcribe([[speech(0, seconds=1.0)]], SpanRecorder())
    stream = one.open_stream()
    stream.push(np.zeros(16_000, np.float32))
    stream.commit()
    evidence = one.evidence()
    assert (evidence["requests"], evidence["streams"]) == (2, 1)
    assert evidence["audio_s"] == pytest.approx(2.0)
    assert evidence["service_s"] >= 0.02 - 0.001
