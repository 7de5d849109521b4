"""Live streams that are computed together: each hears its own audio, in a slot that is used again."""

from __future__ import annotations

import queue
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus.speech import VOICES, speak
from harness.protocols import Work, WorkKind
from harness.protocols.engine import finish, ignore
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import resample
from tests.variants.batching.conversations import Conversation, alone, hold
from tests.variants.batching.test_together import Clock
from tests.variants.eager_parts import eager_parts
from tests.variants.models.small import small_model
from tests.variants.topology import parts
from variants.batching import alone as one_by_one
from variants.batching.bounds import Bounds
from variants.batching.together import Together
from variants.batching.types import Inference
from variants.models import parakeet_tiny
from variants.models.options import ModelOptions
from variants.serving.window import StreamingOptions
from variants.topology.types import CommitStream, Completion, Job, OpenStream, PushAudio

RATE = 16_000


@cache
def small(method: Literal["window", "cached"] = "window") -> Inference:
    """Random weights, every part real: 0.96 s of context, chunks of 0.32 s."""
    options = StreamingOptions(0.96, 0.32, 0.16, method)
    return eager_parts(replace(small_model(), options=options))


def together(inference: Inference, slots: int = 4, delay_s: float = 0.0, **bounds: Any) -> Together:
    # These clients speak as fast as they can: how late they are depends on what else runs here.
    return Together("continuous", inference, Bounds(max_streams=slots, max_lag_s=1e6, **bounds), delay_s)


def noise(seed: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.0, 0.5, samples // 800 + 1), 800)[:samples]
    return (rng.standard_normal(samples) * loudness).astype(np.float32)


def work(kind: WorkKind, stream_id: int, samples: np.ndarray | None = None) -> Work:
    return Work(kind, ignore, SpanRecorder(), stream_id=stream_id, samples=samples)


conversations = st.lists(
    st.builds(
        lambda seed, samples, cuts, hangs_up: Conversation(noise(seed, samples), tuple(cuts), hangs_up),
        seed=st.integers(0, 1000),
        samples=st.integers(0, 3 * RATE),
        cuts=st.lists(st.integers(1, RATE), min_size=1, max_size=5),
        hangs_up=st.booleans(),
    ).filter(lambda each: each.cuts[-1] > 400),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("method", ["window", "cached"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(spoken=conversations, order=st.integers(0, 1000), slots=st.integers(1, 5), max_batch=st.integers(1, 4))
def test_no_stream_hears_another_s_audio_whatever_comes_when_and_who_hangs_up(
    method: Literal["window", "cached"],
    spoken: list[Conversation],
    order: int,
    slots: int,
    max_batch: int,
) -> None:
    engine = together(small(method), slots, max_batch=max_batch)
    found = hold(engine, spoken, slots, np.random.default_rng(order))
    expected = [alone(one_by_one.build(small(method), NoOptions()), each) for each in spoken]
    assert found == expected
    streams = engine.evidence()["batching"]["streams"]
    assert streams["most_open"] <= slots and streams["refused"] == 0 and engine.pending == 0


def test_what_is_due_at_once_is_one_batch_and_its_stages_belong_to_each() -> None:
    engine = together(small())
    pushes = [work("push", n, noise(n, RATE // 2)) for n in range(3)]
    for each in (*(work("open", n) for n in range(3)), *pushes):
        engine.submit(each)
    while engine.step():
        pass
    assert {(each.batch_id, each.batch_size) for each in pushes} == {(1, 3)}
    names = [span.name for span in pushes[0].spans.spans]
    assert names == ["batch", "features", "encoder", "decoder", "text"]
    assert pushes[0].spans.spans[1:] == pushes[1].spans.spans[1:]
    assert engine.evidence()["batching"]["streams"]["batches_by_size"] == {"3": 1}


def test_a_stream_more_than_there_are_slots_is_refused_at_once_and_has_room_later() -> None:
    engine = together(small(), slots=2)
    assert [finish(engine, work("open", n)).error for n in (1, 2)] == [None, None]
    refused = finish(engine, work("open", 3)).error
    assert refused is not None and "no free slot" in refused and "batching.options.max_streams" in refused
    assert "no open stream 3" in str(finish(engine, work("push", 3, noise(0, 10))).error)
    finish(engine, work("abandon", 1))
    assert finish(engine, work("open", 3)).error is None
    assert engine.evidence()["batching"]["streams"]["refused"] == 1


def test_a_failure_in_a_batch_is_one_stream_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose text cannot be made: the others of its batch go on as if it had not been there."""
    engine, spoken = together(small()), [noise(n, RATE) for n in range(3)]
    pushes = [work("push", n, spoken[n]) for n in range(3)]
    for n in range(3):
        engine.submit(work("open", n))
    engine.step()
    broken = engine._live._streams[1].slot
    step = type(engine._live._pool).step  # type: ignore[union-attr]

    def breaks(pool: Any, slots: Any, spans: Any) -> None:
        if broken in slots:
            raise RuntimeError("out of memory")
        step(pool, slots, spans)

    monkeypatch.setattr(type(engine._live._pool), "step", breaks)
    for each in pushes:
        engine.submit(each)
    commits = [finish(engine, work("commit", n)) for n in range(3)]
    assert [each.error is None for each in pushes] == [True, False, True]
    assert "internal: RuntimeError: out of memory" in str(pushes[1].error)
    assert "no open stream 1" in str(commits[1].error)
    expected = [alone(one_by_one.build(small(), NoOptions()), Conversation(each, (RATE,))) for each in spoken]
    assert [commits[n].result for n in (0, 2)] == [expected[0], expected[2]]
    assert engine.evidence()["batching"]["streams"]["batches_taken_apart"] >= 1


def test_a_sample_that_is_no_number_ends_its_own_stream() -> None:
    engine = together(small())
    for n in (1, 2):
        finish(engine, work("open", n))
    assert "NaN" in str(finish(engine, work("push", 1, np.full(9, np.nan, np.float32))).error)
    assert "no open stream 1" in str(finish(engine, work("commit", 1)).error)
    assert finish(engine, work("commit", 2)).error is None


def test_what_is_left_of_a_stream_that_hung_up_is_not_computed() -> None:
    engine = together(small())
    works = [work("open", 1), *(work("push", 1, noise(n, RATE)) for n in range(9)), work("abandon", 1)]
    for each in works:
        engine.submit(each)
    while engine.step():
        pass
    assert [each.error for each in works] == [None] * len(works)
    assert engine.evidence()["batching"]["streams"]["chunks"] == 0


def test_a_stream_that_is_too_late_is_ended_and_one_that_sends_ahead_of_time_is_not() -> None:
    clock = Clock()
    engine = Together("continuous", small(), Bounds(max_lag_s=2.0), clock=clock)
    for n in (1, 2):
        finish(engine, work("open", n))
    works = [work("push", 1, noise(1, RATE)), work("push", 2, noise(2, 3 * RATE)), work("commit", 2)]
    for each in works:
        engine.submit(each)
    engine.step()  # what is due is known
    clock.pass_s(3.5)
    commit = finish(engine, work("commit", 1))
    assert "too far behind" in str(works[0].error) and "no open stream 1" in str(commit.error)
    assert [each.error for each in works[1:]] == [None, None]
    assert engine.evidence()["batching"]["streams"]["ended_late"] == 1


def test_with_a_delay_a_chunk_waits_for_company_and_a_push_that_needs_none_does_not() -> None:
    clock = Clock()
    engine = Together("window", small(), Bounds(), 0.010, clock)
    for n in (1, 2):
        finish(engine, work("open", n))
    finish(engine, work("push", 1, noise(1, RATE // 2)))  # an engine that has been idle does not wait
    clock.pass_s(0.001)
    engine.submit(due := work("push", 1, noise(2, RATE // 2)))
    engine.submit(small_push := work("push", 2, noise(3, 100)))
    assert engine.step() and small_push.error is None and engine.pending == 1
    assert engine.due_in_s == pytest.approx(0.009) and not engine.step()
    engine.submit(work("push", 2, noise(4, RATE // 2)))
    clock.pass_s(0.009)
    while engine.step():
        pass
    assert due.batch_size == 2


@pytest.mark.parametrize("closes", [False, True])
def test_live_streams_of_one_process_are_computed_together_and_each_job_is_answered_once(
    closes: bool,
) -> None:
    service = parts.build("inprocess", engine=partial(together, small()))
    service.start()
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    spoken = [noise(n, 24_000) for n in range(4)]
    jobs: list[Job] = [OpenStream(n) for n in range(4)]
    jobs += [PushAudio(n, piece) for start in range(3) for n in range(4) for piece in [spoken[n][start::3]]]
    jobs += [CommitStream(n) for n in range(4)]
    for job in jobs:
        service.submit(job, answers.put)
    if closes:
        service.close()
    found = [answers.get(timeout=20) for _ in jobs]
    assert answers.empty()
    for n in range(4):
        own = [each.job for each in found if each.job.stream_id == n]  # type: ignore[union-attr]
        assert own == [job for job in jobs if job.stream_id == n]  # type: ignore[union-attr]
    if closes:
        return
    engine = service.evidence()["engine"]["batching"]["streams"]
    service.close()
    assert [each.error for each in found] == [None] * len(found)
    assert any(int(size) > 1 for size in engine["batches_by_size"])
    final = next(each.reply for each in found if each.reply is not None)
    assert {"queue", "batch", "encoder"} <= {span.name for span in final.spans} and final.batch_id


# ---------------------------------------------------------------- the trained model


@cache
def trained() -> Inference:
    options = StreamingOptions(left_context_s=3.2, chunk_s=0.64, right_context_s=0.32)
    return eager_parts(
        parakeet_tiny.build(
            ModelOptions(name="parakeet_tiny", device="cpu", weights="embedded", options=options)
        )
    )


@cache
def turns() -> list[np.ndarray]:
    texts = (
        "turn on the light",
        "what is the weather like tomorrow morning",
        "yes",
        "call my sister at nine",
    )
    voices = ("us_male_1", "gb_female", "rp_male")
    spoken = [speak(text, VOICES[voice]) for text in texts for voice in voices]
    return [resample(audio, sample_rate=RATE, quality="HQ").samples for audio in spoken]


def conversation(rng: np.random.Generator) -> Conversation:
    """A few turns with pauses between them, cut at random; one in five ends in the middle."""
    parts = []
    for turn in rng.choice(len(turns()), rng.integers(1, 4)):
        parts += [turns()[turn], np.zeros(rng.integers(0, RATE), np.float32)]
    cuts = tuple(rng.integers(160, RATE // 2, 40).tolist())
    return Conversation(np.concatenate(parts), cuts, bool(rng.random() < 0.2))


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])  # 200: minutes
def test_conversations_have_the_text_that_each_has_by_itself(count: int) -> None:
    rng = np.random.default_rng(11)
    spoken = [conversation(rng) for _ in range(count)]
    engine = together(trained(), slots=6, max_padding=0.9)
    found = hold(engine, spoken, 6, rng)
    single = one_by_one.build(trained(), NoOptions())
    expected = [alone(single, each) for each in spoken]
    assert [each and each.text for each in found] == [each and each.text for each in expected]
    sizes = engine.evidence()["batching"]["streams"]["batches_by_size"]
    assert any(int(size) > 1 for size in sizes)
    assert sum(bool(each and each.text) for each in found) > count // 2


@pytest.mark.slow  # a minute
def test_memory_is_flat_over_ten_thousand_streams() -> None:
    engine = together(small(), slots=8)
    spoken = partial(noise, samples=RATE // 2)

    def many(count: int) -> None:
        for first in range(0, count, 8):
            for kind in ("open", "push", "commit" if first % 16 else "abandon"):
                for n in range(first, first + 8):
                    engine.submit(work(kind, n, spoken(n) if kind == "push" else None))  # type: ignore[arg-type]
                while engine.step():
                    pass

    many(1_000)
    before = resident_bytes()
    many(10_000)
    assert resident_bytes() - before < 8 << 20
    assert engine.evidence()["batching"]["streams"]["most_open"] == 8


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
