"""What waits is put together by length, the oldest is never passed over, and every work gets its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.corpus.speech import VOICES, speak
from harness.errors import RequestError, UsageError
from harness.protocols import Engine, Evidence, Segment, Stream, Transcript, Work
from harness.protocols.engine import ignore
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import resample
from tests.variants.eager_parts import eager_parts
from variants import registry
from variants.batching import alone, continuous
from variants.batching.bounds import Bounds, Size, Waiting
from variants.batching.together import Together
from variants.batching.types import Inference
from variants.models import parakeet_tiny
from variants.models.options import ModelOptions


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
    engine = continuous.build(inference, continuous.Options(**options))
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


def test_a_work_of_unlike_segments_takes_others_that_add_no_padding() -> None:
    works = [work(1000, 100), work(1000, 100), work(10), work(990)]
    assert served(works)[0].calls == [[1100, 1100, 990], [10]]


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
    engine = continuous.build(Echo(), continuous.Options(max_pending=2))
    assert engine.wants_work
    engine.submit(work(1))
    engine.submit(work(1))
    assert (engine.pending, engine.wants_work) == (2, False)


def test_a_stream_s_failure_is_told() -> None:
    opened = Work("open", ignore, SpanRecorder(), stream_id=3)
    served([opened, work(5)])
    assert opened.error == "no streams here"


def test_padded_frames_are_bounded_whatever_the_number_of_segments() -> None:
    works = [work(1600), work(1600), work(1600), work(16_000)]  # 10, 10, 10 and 100 frames
    assert served(works, max_frames=20)[0].calls == [[1600, 1600], [1600], [16_000]]


def test_a_work_that_let_enough_pass_is_overtaken_no_more() -> None:
    engine = continuous.build(inference := Echo(), continuous.Options(max_batch=2, max_passed_over=1))
    for length in (100, 1000, 100, 100, 100, 1000):
        engine.submit(work(length))
    while engine.step():
        pass
    assert inference.calls == [[100, 100], [1000, 1000], [100, 100]]
    assert engine.evidence()["batching"]["most_passed_over"] == 1


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def windowed(clock: Clock, inference: Inference, delay_s: float = 0.010, **bounds: Any) -> Together:
    return Together("window", inference, Bounds(**bounds), delay_s, clock)


def test_an_idle_engine_does_not_wait() -> None:
    engine = windowed(clock := Clock(), inference := Echo())
    assert engine.due_in_s is None
    for _ in range(2):
        engine.submit(work(10))
        assert engine.due_in_s == 0.0 and engine.step()
        clock.pass_s(0.010)
    assert inference.calls == [[10], [10]]


def test_while_there_is_traffic_the_oldest_waits_for_company_but_no_longer_than_the_delay() -> None:
    engine = windowed(clock := Clock(), inference := Echo())
    engine.submit(work(10))
    engine.step()
    clock.pass_s(0.004)
    engine.submit(one := work(20))
    assert engine.due_in_s == pytest.approx(0.006) and not engine.step()
    clock.pass_s(0.005)
    engine.submit(work(21))
    assert engine.due_in_s == pytest.approx(0.001) and not engine.step()
    clock.pass_s(0.001)
    assert engine.due_in_s == 0.0 and engine.step()
    assert inference.calls == [[10], [20, 21]]
    (batch, *_) = one.spans.spans
    assert (batch.name, batch.duration_s) == ("batch", pytest.approx(0.006))


@pytest.mark.parametrize("bounds", [{"max_batch": 2}, {"max_frames": 2}, {"max_pending": 2}])
def test_a_full_batch_does_not_wait(bounds: dict[str, int]) -> None:
    engine = windowed(Clock(), inference := Echo(), **bounds)
    engine.submit(work(10))
    engine.step()
    engine.submit(work(160))
    assert not engine.step()
    engine.submit(work(160))
    assert engine.due_in_s == 0.0 and engine.step()
    assert inference.calls == [[10], [160, 160]]


def test_a_live_stream_waits_for_no_batch() -> None:
    engine = windowed(Clock(), Echo())
    engine.submit(work(10))
    engine.step()
    engine.submit(work(10))
    engine.submit(opened := Work("open", ignore, SpanRecorder(), stream_id=3))
    assert engine.due_in_s == 0.0 and engine.step()
    assert (opened.error, engine.pending) == ("no streams here", 1)


@given(
    lengths=st.lists(st.lists(st.integers(0, 2000), max_size=3), min_size=1, max_size=30),
    steps_between=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    max_batch=st.integers(1, 8),
    max_padding=st.floats(0.0, 0.9),
    max_passed_over=st.integers(0, 3),
    delay_s=st.sampled_from([0.0, 0.003, 0.05]),
)
def test_whatever_arrives_when_every_work_gets_its_own_answer_once_and_none_is_passed_over(
    lengths: list[list[int]],
    steps_between: list[int],
    max_batch: int,
    max_padding: float,
    max_passed_over: int,
    delay_s: float,
) -> None:
    done: list[int] = []
    clock = Clock()
    bounds = Bounds(max_batch=max_batch, max_padding=max_padding, max_passed_over=max_passed_over)
    engine = Together("window", Echo(), bounds, delay_s, clock)
    works, overtaken = [], [0] * len(lengths)

    def step() -> None:
        before = len(done)
        waiting = sorted(set(range(len(works))) - set(done))
        if engine.step():
            assert waiting[0] in done  # the oldest is in the next batch
            for each in waiting:
                overtaken[each] += each not in done and max(done[before:]) > each
        elif waiting:  # none waits longer than the delay
            assert engine.due_in_s is not None and 0 < engine.due_in_s <= delay_s
        clock.pass_s(0.001)

    for number, each in enumerate(lengths):
        made = work(*each, value=float(number + 1))
        made.done = lambda _work, number=number: done.append(number)
        works.append(made)
        engine.submit(made)
        for _ in range(steps_between[number]):
            step()
    while engine.pending:
        step()
    assert sorted(done) == list(range(len(lengths)))
    assert max(overtaken) <= max_passed_over
    for each, made in zip(lengths, works, strict=True):
        assert made.result == Transcript(_text(made.segments))
        assert made.error is None
        assert made.batch_size == 1 or len(each) <= max_batch


@cache
def tiny() -> Inference:
    return eager_parts(
        parakeet_tiny.build(ModelOptions(name="parakeet_tiny", device="cpu", weights="embedded"))
    )


@cache
def clips() -> list[Segment]:
    voices = ("us_male_1", "gb_female", "rp_male")
    texts = ("turn on the light", "what is the weather like tomorrow morning", "yes")
    spoken = [speak(text, VOICES[voice]) for text in texts for voice in voices]
    heard = [resample(audio, sample_rate=16_000, quality="HQ") for audio in spoken]
    return [Segment(audio.samples, 16_000, 0.0) for audio in heard]


@pytest.mark.parametrize("delay_s", [0.0, 0.005])
def test_the_trained_model_s_tokens_are_those_of_one_work_at_a_time(delay_s: float) -> None:
    def answers(engine: Engine, order: Sequence[int]) -> list[Any]:
        works = {n: Work("transcribe", ignore, SpanRecorder(), [clips()[n]]) for n in order}
        for number, each in enumerate(works.values()):
            engine.submit(each)
            if number % 4 == 3:
                engine.step()
        while engine.pending:
            engine.step()
        return [works[n].result for n in sorted(works)]

    order = np.random.default_rng(7).permutation(len(clips())).tolist()
    expected = answers(alone.build(tiny(), NoOptions()), range(len(clips())))
    assert all(answer.text for answer in expected)
    engine = Together("window", tiny(), Bounds(), delay_s)
    assert answers(engine, order) == expected
    assert any(int(size) > 1 for size in engine.evidence()["batching"]["batches_by_size"])


@pytest.mark.parametrize(
    ("lengths", "share"), [([], 0.0), ([0, 0], 0.0), ([5], 0.0), ([10, 5], 0.25), ([4, 4, 4, 8], 0.375)]
)
def test_padding_is_the_share_beyond_the_rows_own_lengths(lengths: list[int], share: float) -> None:
    assert Size.of(Waiting.of(work(*lengths), 0)).padding == pytest.approx(share)


@pytest.mark.parametrize(
    ("key", "value"), [("max_batch", 0), ("max_padding", 1.0), ("max_pending", 0), ("max_delay_ms", -1)]
)
def test_an_impossible_option_is_named(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"batching\.options\.{key}={value}"):
        registry.options("batching", "window", {key: value})
