"""What waits is put together by length, the oldest is never passed over, and every work gets its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RequestError, UsageError
from harness.protocols import Engine, Evidence, Segment, Stream, Transcript, Work
from harness.protocols.engine import ignore
from harness.spans import SpanRecorder
from variants import registry
from variants.batching import continuous
from variants.batching.continuous import Options, padding


class Echo:
    """An inference whose text is the sum of its samples; it fails for a recording with a negative one."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def transcribe(
        self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder
    ) -> Sequence[Transcript]:
        with spans.span("encoder"):
            self.calls.append([sum(len(each.samples) for each in segments) for segments in recordings])
            if any((each.samples < 0).any() for segments in recordings for each in segments):
                raise RequestError("negative")
        return [Transcript(_text(segments)) for segments in recordings]

    def open_stream(self) -> Stream:
        raise RequestError("no streams here")

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self.calls.append([round(length_s) for length_s in lengths_s])

    def evidence(self) -> Evidence:
        return {}


def _text(segments: Sequence[Segment]) -> str:
    return str(sum(float(each.samples.sum()) for each in segments))


def work(*lengths: int, value: float = 1.0) -> Work:
    segments = [Segment(np.full(n, value, np.float32), 16_000, 0.0) for n in lengths]
    return Work("transcribe", ignore, SpanRecorder(), segments)


def served(works: Sequence[Work], **options: Any) -> tuple[Echo, Engine]:
    inference = Echo()
    engine = continuous.build(inference, Options(**options))
    for each in works:
        engine.submit(each)
    while engine.step():
        pass
    return inference, engine


def test_recordings_at_rates_of_their_own_are_as_long_as_they_last() -> None:
    """Before a front end on the device: three times as many samples at 48 kHz are no longer."""
    at_48_khz = Work("transcribe", ignore, SpanRecorder(), [Segment(np.ones(300), 48_000, 0.0)])
    assert served([work(100), at_48_khz, work(300)])[0].calls == [[100, 300], [300]]


def test_what_waits_is_one_batch_of_its_length() -> None:
    works = [work(100), work(1000), work(110), work(90), work(990)]
    inference, engine = served(works)
    assert inference.calls == [[100, 110, 90], [1000, 990]]
    assert [(each.batch_id, each.batch_size) for each in works] == [(1, 3), (2, 2), (1, 3), (1, 3), (2, 2)]
    batching = engine.evidence()["batching"]
    assert batching["batches_by_size"] == {"2": 1, "3": 1}
    assert (batching["recordings"], batching["batches"], batching["batches_taken_apart"]) == (5, 2, 0)


def test_rows_are_segments_and_bounded() -> None:
    works = [work(100, 100), work(100), work(100, 100), work(100)]
    assert served(works, max_batch=4)[0].calls == [[200, 100, 100], [200]]


def test_a_work_of_more_segments_than_a_batch_is_served_by_itself() -> None:
    assert served([work(*[10] * 5), work(10)], max_batch=2)[0].calls == [[50], [10]]


def test_each_work_waits_in_a_span_and_shares_the_stages_of_its_batch() -> None:
    one, other = works = [work(100), work(100)]
    served(works)
    assert [span.name for span in one.spans.spans] == ["batch", "encoder"]
    assert one.spans.spans[1:] == other.spans.spans[1:]
    (batch, encoder) = one.spans.spans
    assert batch.end_ns <= encoder.start_ns


def test_a_failure_in_a_batch_is_one_work_s_own() -> None:
    works = [work(100), work(100, value=-1.0), work(100)]
    inference, engine = served(works)
    assert [each.error for each in works] == [None, "negative", None]
    assert [each.result for each in works] == [Transcript("100.0"), None, Transcript("100.0")]
    assert engine.evidence()["batching"]["batches_taken_apart"] == 1
    assert len(inference.calls) == 4


def test_it_wants_works_until_it_holds_enough() -> None:
    engine = continuous.build(Echo(), Options(max_pending=2))
    assert engine.wants_work
    engine.submit(work(1))
    engine.submit(work(1))
    assert (engine.pending, engine.wants_work) == (2, False)


def test_a_stream_s_failure_is_told() -> None:
    opened = Work("open", ignore, SpanRecorder(), stream_id=3)
    served([opened, work(5)])
    assert opened.error == "no streams here"


@given(
    lengths=st.lists(st.lists(st.integers(0, 2000), max_size=3), min_size=1, max_size=30),
    steps_between=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    max_batch=st.integers(1, 8),
    max_padding=st.floats(0.0, 0.9),
)
def test_whatever_arrives_when_every_work_gets_its_own_answer_once_and_none_is_passed_over(
    lengths: list[list[int]], steps_between: list[int], max_batch: int, max_padding: float
) -> None:
    done: list[int] = []
    engine = continuous.build(Echo(), Options(max_batch=max_batch, max_padding=max_padding))
    works = []
    for number, each in enumerate(lengths):
        made = work(*each, value=float(number + 1))
        made.done = lambda _work, number=number: done.append(number)
        works.append(made)
        engine.submit(made)
        for _ in range(steps_between[number]):
            waiting = sorted(set(range(number + 1)) - set(done))
            engine.step()
            assert not waiting or waiting[0] in done  # the oldest is in the next batch
    while engine.step():
        pass
    assert sorted(done) == list(range(len(lengths)))
    for each, made in zip(lengths, works, strict=True):
        assert made.result == Transcript(_text(made.segments))
        assert made.error is None
        assert made.batch_size == 1 or len(each) <= max_batch


@pytest.mark.parametrize(
    ("lengths", "share"), [([], 0.0), ([0, 0], 0.0), ([5], 0.0), ([10, 5], 0.25), ([4, 4, 4, 8], 0.375)]
)
def test_padding_is_the_share_beyond_the_rows_own_lengths(lengths: list[int], share: float) -> None:
    assert padding(lengths) == pytest.approx(share)


@pytest.mark.parametrize(("key", "value"), [("max_batch", 0), ("max_padding", 1.0), ("max_pending", 0)])
def test_an_impossible_option_is_named(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"batching\.options\.{key}={value}"):
        registry.options("batching", "continuous", {key: value})
