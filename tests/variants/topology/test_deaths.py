"""A process of the service is killed under load: clients hear of it at once, and service resumes."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.protocols import Request, ServiceSpec
from harness.protocols.folders import SOCKETS, remove_abandoned
from harness.run.judge import NOT_ENGAGED
from tests import shared_memory
from tests.variants.topology import parts
from variants.ipc.types import TornReadError
from variants.topology import collapsed
from variants.topology.pipeline import Pipeline
from variants.topology.supervisor import RestartPolicy
from variants.topology.types import Backend, CommitStream, Completion, OpenStream, PushAudio, Transcribe

SHORT = parts.recording(2.0)
SEVERAL = ("collapsed", "microservices")
SLOW_ENGINE = partial(parts.make_engine, per_request_s=0.05)


@pytest.fixture
def start() -> Iterator[Callable[..., Backend]]:
    """``start(topology, ipc, **options)``: a running service, closed after the test."""
    services: list[Backend] = []

    def run(topology: str, ipc: str = "shared_memory", engine: Any = SLOW_ENGINE, **options: Any) -> Backend:
        service = parts.build(topology, ipc, engine, **options)
        services.append(service)
        service.start()
        return service

    yield run
    for service in services:
        service.close()


def worker_pid(service: Backend, name: str) -> int:
    workers = service.evidence()["topology"]["workers"]
    return int(next(worker["pid"] for worker in workers if worker["name"] == name))


def until_served(service: Backend, timeout_s: float = 20) -> int:
    """Ask until there is an answer; how many times it was refused."""
    deadline, refused = time.monotonic() + timeout_s, 0
    while (reply := service.handle(Request("again", SHORT))).error is not None:
        assert "died" in reply.error
        assert time.monotonic() < deadline, reply.error
        refused += 1
        time.sleep(0.01)
    return refused


def load(service: Backend, jobs: int) -> queue.SimpleQueue[Completion]:
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    for number in range(jobs):
        service.submit(Transcribe(Request(str(number), SHORT)), answers.put)
    return answers


@pytest.mark.parametrize(
    ("topology", "victim", "ipc"),
    [
        ("collapsed", "inference", "shared_memory"),
        pytest.param("collapsed", "inference", "uds_copy", marks=pytest.mark.slow),
        ("collapsed", "inference", "zeromq"),
        ("collapsed", "frontend0", "shared_memory"),
        pytest.param("microservices", "inference", "shared_memory", marks=pytest.mark.slow),
        ("microservices", "preprocess", "uds_copy"),
        pytest.param("microservices", "decode", "zeromq", marks=pytest.mark.slow),
    ],
)
def test_pending_jobs_hear_of_a_death_within_a_second(
    start: Callable[..., Backend], topology: str, victim: str, ipc: str
) -> None:
    service = start(topology, ipc)
    pid = worker_pid(service, victim)
    answers = load(service, 40)
    served = answers.get(timeout=10)
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    rest = [answers.get(timeout=10) for _ in range(39)]
    assert time.monotonic() - killed_s < 5
    assert served.error is None
    errors = {completion.error for completion in rest if completion.error is not None}
    assert errors and all(error.startswith(f"the {victim} process died (") for error in errors)
    assert all(completion.reply is not None for completion in rest)

    until_served(service)
    evidence = service.evidence()
    assert "gc" not in evidence  # no policy was asked for
    topology_evidence = evidence["topology"]
    (death,) = topology_evidence["supervisor"]["deaths"]
    assert (death["name"], death["pid"], death["how"]) == (victim, pid, "killed by SIGKILL")
    assert death["back_after_s"] > 0
    assert topology_evidence["failed_by_deaths"] == sum(c.error is not None for c in rest)
    assert victim in topology_evidence[NOT_ENGAGED]  # the judge marks the run


def test_only_what_was_in_a_front_end_dies_with_it(start: Callable[..., Backend]) -> None:
    service = start("collapsed", frontend_workers=2)
    pid = worker_pid(service, "frontend0")
    answers = load(service, 20)
    os.kill(pid, signal.SIGKILL)
    while service.handle(Request("other", SHORT)).error is not None:  # by the other one
        pass
    errors = [answers.get(timeout=10).error for _ in range(20)]
    assert 0 < sum(error is None for error in errors) < 20
    until_served(service)


def test_streams_that_were_lost_say_so_and_new_ones_work(start: Callable[..., Backend]) -> None:
    service = start("collapsed")
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    service.submit(OpenStream(1), answers.put)
    assert answers.get(timeout=10).error is None
    os.kill(worker_pid(service, "inference"), signal.SIGKILL)
    until_served(service)
    service.submit(PushAudio(1, np.zeros(1600, np.float32)), answers.put)
    assert "was lost with a process that died" in (answers.get(timeout=10).error or "")
    for job in (OpenStream(1), PushAudio(1, np.zeros(1600, np.float32)), CommitStream(1)):
        service.submit(job, answers.put)
    assert [answers.get(timeout=10).error for _ in range(3)] == [None] * 3


def test_a_front_end_that_dies_leaves_no_stream_in_the_engine(start: Callable[..., Backend]) -> None:
    service = start("collapsed", frontend_workers=2)
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    service.submit(OpenStream(2), answers.put)  # an even id: through frontend0
    assert answers.get(timeout=10).error is None
    os.kill(worker_pid(service, "frontend0"), signal.SIGKILL)
    until_both_are_up = time.monotonic() + 20
    while len(service.evidence()["topology"]["workers"]) < 3:
        assert time.monotonic() < until_both_are_up
    service.submit(OpenStream(2), answers.put)  # an id that the engine still knew would be refused
    assert answers.get(timeout=10).error is None


@pytest.mark.parametrize(
    ("topology", "deaths"),
    [
        ("collapsed", 3),
        ("microservices", 2),
        *(pytest.param(name, 12, marks=pytest.mark.slow) for name in SEVERAL),
    ],
)
def test_it_survives_many_deaths_of_any_process(
    start: Callable[..., Backend], topology: str, deaths: int
) -> None:
    service = start(topology, engine=parts.make_engine, max_restarts=1000)
    expected, moments = service.handle(Request("a", SHORT)).transcript, random.Random(4)
    victims = [worker["name"] for worker in service.evidence()["topology"]["workers"]]
    for _ in range(deaths):
        pid = worker_pid(service, moments.choice(victims))
        answers = load(service, 10)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        for completion in (answers.get(timeout=20) for _ in range(10)):
            assert completion.reply is not None
            assert completion.error is not None or completion.reply.transcript == expected
        until_served(service)
    assert len(service.evidence()["topology"]["supervisor"]["deaths"]) == deaths


def test_a_process_that_cannot_live_is_given_up(start: Callable[..., Backend]) -> None:
    service = start("collapsed", engine=parts.make_mortal_engine, max_restarts=2)
    deadly = Request("deadly", parts.recording(30.0))
    for _ in range(3):
        until_served(service)
        error = service.handle(deadly).error
        assert error is not None and "inference process died (exit status 17)" in error
    error = service.handle(Request("a", SHORT)).error
    assert error is not None and "died 3 times in 60 s, last exit status 17" in error
    time.sleep(0.3)
    assert service.evidence()["topology"]["supervisor"]["given_up"] is not None


def test_a_link_that_breaks_its_word_is_not_hidden(start: Callable[..., Backend]) -> None:
    """Torn memory on the way back: everything pending is answered and the service says why."""
    service = start("collapsed", "shared_memory")
    assert isinstance(service, Pipeline)

    def torn(*_: object) -> None:
        raise TornReadError("slot 0 was to hold message 1 and holds 99")

    service._finish = torn  # type: ignore[method-assign]
    answers = load(service, 5)
    errors = {answers.get(timeout=10).error for _ in range(5)}
    errors.add(service.handle(Request("later", SHORT)).error)
    assert len(errors) == 1
    assert "slot 0 was to hold message 1 and holds 99" in str(errors)


def test_back_off_doubles_and_is_bounded() -> None:
    policy = RestartPolicy(first_delay_s=0.05, longest_delay_s=2.0)
    assert [policy.delay_s(deaths) for deaths in (1, 2, 3, 4)] == [0.05, 0.1, 0.2, 0.4]
    assert policy.delay_s(50) == 2.0


OWNER = """
import sys, time
sys.path[:] = {path!r}
from tests.variants.topology import parts
service = parts.build({topology!r}, {ipc!r})
service.start()
print(*service.evidence()["topology"]["pids"], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ipc", ["shared_memory", "zeromq"])
def test_nothing_outlives_a_service_that_is_killed(ipc: str, own_temp: Path) -> None:
    shared = shared_memory.names()
    code = OWNER.format(path=sys.path, topology="collapsed", ipc=ipc)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 3
        owner.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not shared_memory.left_since(shared)
    remove_abandoned(SOCKETS)  # as the next service's start does
    assert not list(own_temp.iterdir())


def test_the_inference_process_has_the_policy_of_the_collector() -> None:
    gc = {"name": "frozen", "options": {"objects": 1000}}
    service = collapsed.build(
        ServiceSpec(parts.make_frontend, parts.make_engine, ipc={"name": "uds_copy"}, gc=gc)
    )
    service.start()
    assert service.handle(Request("a", SHORT)).error is None
    evidence = service.evidence()
    service.close()
    assert evidence["gc"]["frozen_objects"] > 1000
