"""However many processes a request passes through, it gets the same answer, bit for bit."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.errors import UnavailableError, UsageError
from harness.measure.ledger import balance
from harness.protocols import Reply, Request, ServiceSpec
from harness.protocols.engine import hear
from harness.spans import SPAN_NAMES
from tests import shared_memory
from tests.variants.topology import parts
from variants.topology import collapsed, microservices
from variants.topology.types import (
    AbandonStream,
    Backend,
    Busy,
    CommitStream,
    Completion,
    Job,
    OpenStream,
    PushAudio,
    Transcribe,
)

SERVICES = [
    ("inprocess", "", {}),
    ("collapsed", "shared_memory", {"frontend_workers": 2}),
    ("collapsed", "uds_copy", {}),
    ("collapsed", "zeromq", {}),
    ("microservices", "shared_memory", {}),
    ("microservices", "uds_copy", {}),
    ("microservices", "zeromq", {}),
]
REQUESTS = {
    "short": parts.recording(2.0),
    "long": parts.recording(40.0, seed=1),
    "stereo_44k": parts.recording(6.0, rate=44_100, channels=2, seed=2),
    "silence": parts.recording(0.1),
    "broken": b"RIFF this is not a recording",
    "empty": b"",
    "truncated": parts.recording(5.0)[:-40_000],
}


@pytest.fixture(scope="module", params=SERVICES, ids=lambda p: f"{p[0]}-{p[1] or 'none'}")
def service(request: pytest.FixtureRequest) -> Iterator[Backend]:
    topology, ipc, options = request.param
    backend = parts.build(topology, ipc, **options)
    backend.start()
    backend.warm_up([1.0, 5.0])
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def expected() -> dict[str, Reply]:
    reference = parts.build("inprocess")
    reference.start()
    replies = {name: reference.handle(Request(name, payload)) for name, payload in REQUESTS.items()}
    reference.close()
    return replies


def do(service: Backend, *jobs: Job) -> list[Completion]:
    """Submit, wait for all, and give the completions in their order of arrival."""
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    for job in jobs:
        service.submit(job, answers.put)
    return [answers.get(timeout=20) for _ in jobs]


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_does_not_depend_on_the_way(
    service: Backend, expected: dict[str, Reply], name: str
) -> None:
    reply, reference = service.handle(Request(name, REQUESTS[name])), expected[name]
    assert reply.transcript == reference.transcript
    assert reply.error == reference.error
    assert (reply.segments, reply.speech_s) == (reference.segments, reference.speech_s)
    assert reply.request_id == name


def test_the_long_recording_is_several_segments(expected: dict[str, Reply]) -> None:
    assert expected["long"].segments > 1  # or the comparison above would prove little
    assert expected["broken"].error is not None and "wav" in expected["broken"].error


def test_spans_tell_where_the_time_went(service: Backend) -> None:
    reply = service.handle(Request("a", REQUESTS["long"]))
    spans = sorted(reply.spans, key=lambda span: span.start_ns)
    assert {span.name for span in spans} <= set(SPAN_NAMES)
    assert {"decode", "vad", "segment", "encoder", "decoder", "reply"} <= {s.name for s in spans}
    for before, after in itertools.pairwise(spans):
        assert before.end_ns <= after.start_ns  # nothing is counted twice
    assert reply.started_ns <= spans[0].start_ns and spans[-1].end_ns <= reply.finished_ns
    hops = service.evidence()["topology"]["hops_per_request"]
    assert [span.name for span in spans].count("ipc") == 2 * hops  # sending, and receiving


@pytest.mark.parametrize("ipc", ["shared_memory", "uds_copy", "zeromq"])
def test_what_comes_while_an_engine_computes_queues(ipc: str) -> None:
    """Also where the engine looks for work between its steps: the wait is in a span."""
    service = parts.build("collapsed", ipc, partial(parts.make_batching_engine, per_request_s=0.5))
    service.start()
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    try:
        for number in range(3):
            service.submit(Transcribe(Request(str(number), REQUESTS["short"])), answers.put)
            time.sleep(0.05)
        replies = [answers.get(timeout=20).reply for _ in range(3)]
    finally:
        service.close()
    for reply in replies:
        assert reply is not None
        found = balance(reply.spans, reply.started_ns, reply.finished_ns)
        assert found.unaccounted_s < 0.2  # of half a second that the engine takes, or waiting for it
    assert max(balance(r.spans, r.started_ns, r.finished_ns).seconds["queue"] for r in replies if r) > 0.2


def test_a_stream_keeps_its_order_and_its_samples(service: Backend) -> None:
    audio = np.random.default_rng(5).normal(0, 0.1, 48_000).astype(np.float32)
    chunks = [PushAudio(7, chunk) for chunk in np.split(audio, 30)]
    *_, final = do(service, OpenStream(7), *chunks, CommitStream(7))
    assert final.reply is not None and final.error is None
    assert final.reply.transcript == hear(parts.make_engine(), audio)


def test_streams_do_not_mix(service: Backend) -> None:
    rng = np.random.default_rng(6)
    audio = {stream: rng.normal(0, 0.1, 16_000).astype(np.float32) for stream in range(100, 120)}
    jobs: list[Job] = [OpenStream(stream) for stream in audio]
    for part in range(10):
        jobs += [PushAudio(s, samples[part * 1600 : (part + 1) * 1600]) for s, samples in audio.items()]
    jobs += [CommitStream(stream) for stream in audio]
    finals = {c.job.stream_id: c.reply for c in do(service, *jobs) if isinstance(c.job, CommitStream)}
    for stream, samples in audio.items():
        reply = finals[stream]
        assert reply is not None and reply.transcript == hear(parts.make_engine(), samples)


def test_partial_text_comes_when_it_changes(service: Backend) -> None:
    half_second = np.ones(8000, np.float32)
    texts = [c.text for c in do(service, OpenStream(3), *[PushAudio(3, half_second)] * 4, CommitStream(3))]
    assert [text is not None for text in texts] == [False, False, True, False, True, False]


@pytest.mark.parametrize("job", [PushAudio(99, np.ones(10, np.float32)), CommitStream(99)])
def test_a_stream_that_is_not_open_is_an_error_of_its_job(service: Backend, job: Job) -> None:
    (completion,) = do(service, job)
    assert completion.error is not None and completion.error.startswith("no open stream 99")
    assert completion.reply is None


def test_an_id_is_free_again_after_the_stream(service: Backend) -> None:
    first = do(service, OpenStream(4), AbandonStream(4), OpenStream(4), CommitStream(4), OpenStream(4))
    again = do(service, OpenStream(4), AbandonStream(4), AbandonStream(4))
    assert [completion.error for completion in first] == [None] * 5
    assert sorted(completion.error or "" for completion in again) == ["", "", "stream 4 is open already"]


def test_every_job_is_answered_once_with_its_token(service: Backend) -> None:
    jobs = [Transcribe(Request(str(i), REQUESTS["short"]), token=object()) for i in range(20)]
    completions = do(service, *jobs)
    assert {id(c.job.token) for c in completions} == {id(job.token) for job in jobs}
    assert all(c.reply is not None and c.reply.request_id == c.job.request.request_id for c in completions)  # type: ignore[union-attr]


def test_evidence_says_what_was_engaged(service: Backend) -> None:
    service.handle(Request("a", REQUESTS["long"]))
    evidence = service.evidence()
    topology = evidence["topology"]
    assert topology["processes"] == len(set(topology["pids"]))
    assert evidence["engine"]["requests"] > 0
    assert "not_engaged" not in topology
    told = topology.get("workers", [evidence.get("frontend", {})])
    assert next(part["decoders"] for part in told if part.get("decoders"))["wav"] > 0
    if topology["processes"] > 1:
        assert "not_engaged" not in evidence["ipc"]
        assert topology["supervisor"] == {"deaths": [], "given_up": None}


def test_front_end_processes_stay_light(service: Backend) -> None:
    workers = service.evidence()["topology"].get("workers", [])
    assert all(worker["heavy_modules"] == [] for worker in workers if worker["name"] != "inference")


@pytest.mark.parametrize("topology", ["collapsed", "microservices"])
def test_nothing_is_copied_from_decoder_to_model(topology: str) -> None:
    """What ``shared_memory`` still copies is the container itself, on its way in."""
    service = parts.build(topology)
    service.start()
    payload = REQUESTS["long"]
    assert service.handle(Request("a", payload)).error is None
    evidence = service.evidence()
    service.close()
    assert evidence["ipc"]["copied_bytes"] == {"into_slot": len(payload)}
    assert evidence["ipc"]["shared_bytes"] > 2 * len(payload)  # the container, and float32 behind it


@pytest.mark.parametrize("topology", ["inprocess", "collapsed", "microservices"])
def test_a_full_backend_is_busy_and_recovers(topology: str) -> None:
    service = parts.build(topology, max_pending=3)
    service.start()
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    refused = accepted = 0
    while refused < 3:
        try:
            service.submit(Transcribe(Request("a", REQUESTS["short"])), answers.put)
            accepted += 1
        except Busy:
            refused += 1
    assert all(answers.get(timeout=20).error is None for _ in range(accepted))
    assert service.handle(Request("b", REQUESTS["short"])).error is None
    service.close()


@pytest.mark.parametrize("topology", ["inprocess", "collapsed", "microservices"])
def test_what_waits_at_the_end_is_answered_too(topology: str) -> None:
    service = parts.build(topology)
    service.start()
    answers: queue.SimpleQueue[Completion] = queue.SimpleQueue()
    for _ in range(30):
        service.submit(Transcribe(Request("a", REQUESTS["long"])), answers.put)
    service.close()
    errors = [answers.get(timeout=1).error for _ in range(30)]
    assert "the service is closing" in errors
    assert set(errors) <= {"the service is closing", None}
    with pytest.raises(RuntimeError, match="needs a started, open service"):
        service.submit(Transcribe(Request("a", b"")), answers.put)
    service.close()


def test_nothing_is_left_behind(own_temp: Path) -> None:
    shared = shared_memory.names()
    service = parts.build("microservices")
    service.start()
    assert service.handle(Request("a", REQUESTS["short"])).error is None
    assert list(own_temp.iterdir())
    pids = service.evidence()["topology"]["pids"][1:]
    service.close()
    assert not list(own_temp.iterdir())
    assert not shared_memory.left_since(shared)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("topology", [collapsed, microservices])
class TestStartUp:
    def test_what_a_process_lacks_is_raised_here(self, topology: object) -> None:
        spec = ServiceSpec(parts.make_frontend, parts.refuse, ipc={"name": "shared_memory"})
        with pytest.raises(UnavailableError, match="needs a GPU"):
            topology.build(spec).start()  # type: ignore[attr-defined]

    def test_a_process_that_dies_while_starting_is_named(self, topology: object) -> None:
        spec = ServiceSpec(parts.make_frontend, parts.crash, ipc={"name": "shared_memory"})
        with pytest.raises(Exception, match="inference process ended unexpectedly: exit status 9"):
            topology.build(spec).start()  # type: ignore[attr-defined]

    def test_parts_that_cannot_travel_are_refused(self, topology: object) -> None:
        spec = ServiceSpec(lambda: parts.make_frontend(), parts.make_engine, ipc={"name": "shared_memory"})
        with pytest.raises(UsageError, match="cannot be sent to another process"):
            topology.build(spec).start()  # type: ignore[attr-defined]
