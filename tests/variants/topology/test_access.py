"""Callers of one process: one request at a time, or front ends side by side and their works in batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from harness.errors import RequestError
from harness.measure.ledger import balance
from harness.protocols import Engine, Evidence, Reply, Request, Segment, Stream, Transcript, Work
from harness.protocols.engine import ignore
from harness.protocols.options import NoOptions
from harness.spans import SpanRecorder, now_ns
from tests.variants.topology import parts
from variants.batching import alone, continuous, window
from variants.topology.access import OneByOne, Shared, access_to
from variants.topology.types import Backend, Completion, Transcribe

SLOW_BATCHING = partial(parts.make_batching_engine, per_request_s=0.03)


class Gated:
    """An inference that can be held up; its text is the number of samples."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Event()
        self.broken = False

    def transcribe(
        self, recordings: Sequence[Sequence[Segment]], _spans: SpanRecorder
    ) -> Sequence[Transcript]:
        self.calls.append([sum(len(each.samples) for each in segments) for segments in recordings])
        self.entered.release()
        self.open.wait(10)
        if self.broken:
            self.broken = False
            raise KeyboardInterrupt
        return [Transcript(str(n)) for n in self.calls[-1]]

    def open_stream(self) -> Stream:
        raise RequestError("no streams here")

    def warm_up(self, lengths_s: Iterable[float]) -> None: ...

    def evidence(self) -> Evidence:
        return {}


def prepare(work: Work) -> None:
    assert not work.segments
    work.segments = [Segment(np.ones(work.stream_id, np.float32), 16_000, 0.0)]


def work(samples: int) -> Work:
    return Work("transcribe", ignore, SpanRecorder(), stream_id=samples)


def until(condition: threading.Semaphore) -> None:
    assert condition.acquire(timeout=10)


@pytest.mark.parametrize("choice", [continuous, window])
def test_what_comes_while_the_engine_is_busy_is_the_next_batch(choice: object) -> None:
    engine: Engine = choice.build(inference := Gated(), choice.Options(max_padding=0.5))  # type: ignore[attr-defined]
    shared = access_to(engine)
    assert isinstance(shared, Shared)
    works = [work(n) for n in (100, 101, 102, 103)]
    with ThreadPoolExecutor(4) as callers:
        first = callers.submit(shared.serve, works[0], prepare, now_ns())
        until(inference.entered)
        others = [callers.submit(shared.serve, each, prepare, now_ns()) for each in works[1:]]
        while len(shared._arrived) < 3:
            pass
        inference.open.set()
        for caller in (first, *others):
            caller.result(10)
    assert [each.result for each in works] == [Transcript(str(n)) for n in (100, 101, 102, 103)]
    assert [sorted(call) for call in inference.calls] == [[100], [101, 102, 103]]
    assert [span.name for span in works[0].spans.spans] == ["queue", "queue", "batch"]


def test_a_caller_that_is_interrupted_leaves_the_engine_to_the_others() -> None:
    shared = access_to(continuous.build(inference := Gated(), continuous.Options()))
    inference.broken = True
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(shared.serve, work(5), prepare, now_ns())
        until(inference.entered)
        second = callers.submit(shared.serve, other := work(6), prepare, now_ns())
        while not shared._arrived:  # type: ignore[attr-defined]
            pass
        inference.open.set()
        with pytest.raises(KeyboardInterrupt):
            first.result(10)
        second.result(10)
    assert other.result == Transcript("6")


def test_a_failure_of_the_front_end_never_meets_the_engine() -> None:
    def refuse(work: Work) -> None:
        work.error = "no audio"

    for choice in (alone.build(Gated(), NoOptions()), continuous.build(Gated(), continuous.Options())):
        access_to(choice).serve(refused := work(1), refuse, now_ns())
        assert (refused.result, choice.pending) == (None, 0)


def test_alone_is_one_request_at_a_time_front_end_included() -> None:
    single = access_to(alone.build(inference := Gated(), NoOptions()))
    assert isinstance(single, OneByOne)
    prepared: list[int] = []

    def noted(work: Work) -> None:
        prepared.append(work.stream_id)
        prepare(work)

    with ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(single.serve, work(n), noted, now_ns()) for n in (1, 2)]
        until(inference.entered)
        assert len(prepared) == 1
        inference.open.set()
        for answer in answers:
            answer.result(10)
    assert sorted(prepared) == [1, 2]


def handled(service: Backend, requests: list[Request]) -> list[Reply]:
    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(service.handle, requests))


def submitted(service: Backend, requests: list[Request]) -> list[Reply]:
    """As a connection server does."""
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    for request in requests:
        service.submit(Transcribe(request), answers.put)
    found = [answers.get(timeout=20).reply for _ in requests]
    return sorted((reply for reply in found if reply is not None), key=lambda reply: int(reply.request_id))


@pytest.mark.parametrize("ask", [handled, submitted])
def test_clients_of_one_process_are_batched_and_their_ledgers_balance(
    ask: Callable[[Backend, list[Request]], list[Reply]],
) -> None:
    service = parts.build("inprocess", engine=SLOW_BATCHING)
    service.start()
    payloads = [parts.recording(0.5 + 0.1 * (n % 3), seed=n) for n in range(16)]
    try:
        requests = [Request(str(n), payload) for n, payload in enumerate(payloads)]
        together = ask(service, requests)
        one_by_one = [service.handle(request) for request in requests]
        sizes = service.evidence()["engine"]["batching"]["batches_by_size"]
    finally:
        service.close()
    assert [reply.transcript for reply in together] == [reply.transcript for reply in one_by_one]
    assert any(int(size) > 1 for size in sizes)
    for reply in together:
        ledger = balance(reply.spans, reply.started_ns, reply.finished_ns)
        assert {"queue", "batch", "encoder"} <= set(ledger.seconds)
