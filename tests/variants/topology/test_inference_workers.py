"""Several inference processes behind one pool of front ends."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from harness.protocols import Request
from harness.protocols.engine import hear
from tests.variants.topology import parts
from variants.topology.process import environment
from variants.topology.types import Backend, CommitStream, Completion, Job, OpenStream, PushAudio

SLOW_ENGINE = partial(parts.make_engine, per_request_s=0.05)
NAMES = ("inference0", "inference1")


@pytest.fixture
def service() -> Iterator[Backend]:
    built = parts.build("collapsed", engine=SLOW_ENGINE, inference_workers=2)
    built.start()
    yield built
    built.close()


def do(service: Backend, *jobs: Job) -> list[Completion]:
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    for job in jobs:
        service.submit(job, answers.put)
    found = {id(completion.job): completion for completion in (answers.get(timeout=20) for _ in jobs)}
    return [found[id(job)] for job in jobs]


def workers(service: Backend) -> dict[str, Any]:
    return {worker["name"]: worker for worker in service.evidence()["topology"]["workers"]}


def test_work_goes_to_the_engine_with_the_least_in_flight(service: Backend) -> None:
    payload = parts.recording(1.0)
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(service.handle, [Request(str(n), payload) for n in range(16)]))
    assert [reply.error for reply in replies] == [None] * 16
    assert len({reply.transcript for reply in replies}) == 1
    assert [workers(service)[name]["device"] for name in NAMES] == [0, 1]
    received = service.evidence()["ipc"]["received_by"]
    assert all(received[name]["messages"] >= 6 for name in NAMES)


def test_a_stream_keeps_to_one_engine(service: Backend) -> None:
    audio = {n: np.random.default_rng(n).normal(0, 0.1, 8_000).astype(np.float32) for n in (10, 11)}
    jobs: list[Job] = [OpenStream(stream_id) for stream_id in audio]
    for start in range(0, 8_000, 1_600):
        jobs += [PushAudio(n, samples[start : start + 1_600]) for n, samples in audio.items()]
    *_, one, other = do(service, *jobs, *(CommitStream(stream_id) for stream_id in audio))
    for final, samples in zip((one, other), audio.values(), strict=True):
        assert final.reply is not None
        assert final.reply.transcript == hear(parts.make_engine(), samples)


def test_the_death_of_one_engine_costs_what_it_had(service: Backend) -> None:
    do(service, OpenStream(10), OpenStream(11))  # one on each
    os.kill(workers(service)[NAMES[0]]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    (lost,) = do(service, PushAudio(10, np.zeros(100, np.float32)))
    while lost.error is None and time.monotonic() < deadline:  # until the death is noticed
        (lost,) = do(service, PushAudio(10, np.zeros(100, np.float32)))
    assert lost.error is not None
    kept = do(service, PushAudio(11, np.ones(100, np.float32)), CommitStream(11))
    assert [completion.error for completion in kept] == [None, None]
    assert service.handle(Request("after", parts.recording(0.5))).error is None


@pytest.mark.parametrize(
    ("visible", "device", "seen"), [("", 1, "1"), ("3,5", 0, "3"), ("3,5", 1, "5"), ("3", 1, "1")]
)
def test_each_engine_sees_its_own_of_the_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: int, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(device)["CUDA_VISIBLE_DEVICES"] == seen
    assert environment(None)["CUDA_VISIBLE_DEVICES"] == visible
