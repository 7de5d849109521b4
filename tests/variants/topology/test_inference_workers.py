"""Several inference processes behind one pool of front ends."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.protocols import Request
from harness.protocols.engine import hear
from tests.variants.topology import parts
from variants.topology import collapsed
from variants.topology.process import environment
from variants.topology.types import Backend, CommitStream, Completion, Job, OpenStream, PushAudio
from variants.topology.worker import WorkerPlan

SLOW_ENGINE = partial(parts.make_engine, per_request_s=0.05)
SLOW_BATCHING = partial(parts.make_batching_engine, per_request_s=0.03)
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


def test_batches_of_different_engines_are_different_batches() -> None:
    built = parts.build("collapsed", engine=SLOW_BATCHING, inference_workers=2)
    built.start()
    try:
        payload = parts.recording(0.5)
        with ThreadPoolExecutor(12) as clients:
            replies = list(clients.map(built.handle, [Request(str(n), payload) for n in range(36)]))
    finally:
        built.close()
    together = Counter(reply.batch_id for reply in replies)
    assert {reply.batch_id: reply.batch_size for reply in replies} == together
    assert {batch_id % 2 for batch_id in together} == {0, 1}
    assert max(together.values()) > 1


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


def test_the_devices_that_are_named_have_one_engine_each_behind_one_pool() -> None:
    built = parts.build("collapsed", engine=SLOW_ENGINE, devices=(1, 0), frontend_workers=2)
    built.start()
    try:
        found = workers(built)
    finally:
        built.close()
    assert [found[name]["device"] for name in NAMES] == [1, 0]
    assert {name for name in found if name not in NAMES} == {"frontend0", "frontend1"}


def test_one_device_that_is_named_is_all_that_its_engine_sees() -> None:
    (engine,) = (plan for plan in plans(devices=(3,)) if plan.make_engine is not None)
    assert (engine.name, engine.device) == ("inference", 3)


def test_a_pool_of_no_stated_size_takes_the_cores_that_inference_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pool(cores: int) -> int:
        monkeypatch.setattr(collapsed.os, "sched_getaffinity", lambda _pid: set(range(cores)))
        return sum(plan.make_frontend is not None for plan in plans(devices=(0, 1), frontend_workers=0))

    assert [pool(cores) for cores in (16, 2, 1)] == [14, 1, 1]


def test_more_processes_than_devices_are_refused() -> None:
    with pytest.raises(UsageError, match=r"inference_workers=3 with topology\.devices=\[0, 1\]"):
        plans(devices=(0, 1), inference_workers=3)


def plans(**options: Any) -> list[WorkerPlan]:
    built = parts.build("collapsed", **options)
    return list(built._layout.plans(Path("/links")))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("visible", "device", "seen"), [("", 1, "1"), ("3,5", 0, "3"), ("3,5", 1, "5"), ("3", 1, "1")]
)
def test_each_engine_sees_its_own_of_the_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: int, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(device)["CUDA_VISIBLE_DEVICES"] == seen
    assert environment(None)["CUDA_VISIBLE_DEVICES"] == visible
