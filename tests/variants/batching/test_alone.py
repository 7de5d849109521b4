"""One work at a time: order, failures, and what an engine says of itself while it waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from harness.errors import HarnessError, RequestError
from harness.protocols import Engine, Evidence, Segment, Stream, Transcript, Work, WorkKind
from harness.protocols.engine import hear, ignore, transcribe
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder
from variants.batching import alone


class Counting:
    """An inference whose text is the number of samples; it fails for what is silent."""

    def transcribe(
        self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder
    ) -> Sequence[Transcript]:
        with spans.span("encoder"):
            return [Transcript(str(_count(segments))) for segments in recordings]

    def open_stream(self) -> Stream:
        return _Counted()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        for length_s in lengths_s:
            _count([Segment(np.ones(round(length_s), np.float32), 1, 0.0)])

    def evidence(self) -> Evidence:
        return {"model": {"name": "counting"}}


class _Counted:
    def __init__(self) -> None:
        self._samples: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> str | None:
        self._samples.append(samples)
        if not samples.any():
            raise ValueError("silent")
        return str(sum(map(len, self._samples)))

    def commit(self) -> Transcript:
        return Transcript(str(sum(map(len, self._samples))))


def _count(segments: Sequence[Segment]) -> int:
    if not all(segment.samples.any() for segment in segments):
        raise RequestError("nothing was said")
    return sum(len(segment.samples) for segment in segments)


@pytest.fixture
def engine() -> Engine:
    return alone.build(Counting(), NoOptions())


def segment(samples: int, level: float = 1.0) -> Segment:
    return Segment(np.full(samples, level, np.float32), 16_000, 0.0)


def work(kind: WorkKind, done: Callable[[Work], None] = ignore, stream_id: int = 1, n: int = 0) -> Work:
    return Work(kind, done, SpanRecorder(), stream_id=stream_id, samples=np.ones(n, np.float32))


def run(engine: Engine) -> None:
    while engine.step():
        pass


def test_nothing_is_computed_before_a_step_and_one_work_in_each(engine: Engine) -> None:
    finished: list[int] = []
    works = [
        Work("transcribe", lambda w: finished.append(len(w.segments)), SpanRecorder(), [segment(5)] * n)
        for n in (1, 2, 3)
    ]
    for each in works:
        engine.submit(each)
    assert (engine.pending, engine.wants_work, finished) == (3, False, [])
    assert engine.step()
    assert (engine.pending, finished) == (2, [1])
    run(engine)
    assert (engine.pending, engine.wants_work, finished) == (0, True, [1, 2, 3])
    assert not engine.step()
    assert [each.result for each in works] == [Transcript("5"), Transcript("10"), Transcript("15")]
    assert [[s.name for s in each.spans.spans] for each in works] == [["encoder"]] * 3


def test_a_failure_is_the_work_s_own(engine: Engine) -> None:
    assert transcribe(engine, [segment(3)], SpanRecorder()).text == "3"
    with pytest.raises(HarnessError, match="nothing was said"):
        transcribe(engine, [segment(3, level=0.0)], SpanRecorder())
    assert transcribe(engine, [segment(4)], SpanRecorder()).text == "4"


def test_streams_are_kept_apart_and_each_in_order(engine: Engine) -> None:
    works = [
        work("open", stream_id=1),
        work("open", stream_id=2),
        work("push", stream_id=1, n=10),
        work("push", stream_id=2, n=1),
        work("push", stream_id=1, n=5),
        work("commit", stream_id=1),
        work("commit", stream_id=2),
    ]
    for each in works:
        engine.submit(each)
    run(engine)
    assert [each.error for each in works] == [None] * 7
    assert [each.result for each in works[2:5]] == ["10", "1", "15"]
    assert [each.result for each in works[5:]] == [Transcript("15"), Transcript("1")]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("push",), "no open stream 1"),
        (("open", "open"), "stream 1 is open already"),
        (("open", "abandon", "push"), "no open stream 1"),
        (("open", "commit", "commit"), "no open stream 1"),
    ],
)
def test_a_stream_that_is_not_there_is_said_to_be_so(
    engine: Engine, kinds: tuple[WorkKind, ...], message: str
) -> None:
    works = [work(kind, n=1) for kind in kinds]
    for each in works:
        engine.submit(each)
    run(engine)
    assert [each.error for each in works[:-1]] == [None] * (len(works) - 1)
    assert works[-1].error is not None and message in works[-1].error


def test_a_stream_that_breaks_is_closed_and_an_internal_fault_is_marked(engine: Engine) -> None:
    with pytest.raises(HarnessError, match="internal: ValueError: silent"):
        hear(engine, np.zeros(4, np.float32))
    again = work("push", n=1)
    engine.submit(again)
    run(engine)
    assert again.error is not None and "has failed or was lost" in again.error


def test_evidence_counts_both_kinds_of_work(engine: Engine) -> None:
    transcribe(engine, [segment(3)], SpanRecorder())
    hear(engine, np.ones(4, np.float32))
    assert engine.evidence() == {
        "model": {"name": "counting"},
        "batching": {"name": "alone", "recordings": 1, "stream_works": 3},
    }
