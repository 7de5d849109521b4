from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from harness.config.load import compose_run
from harness.protocols import Request
from harness.run.service import make_service, server_plan
from harness.workload.remote import RemoteService
from variants.topology.warmup import tone_wav


@pytest.fixture(params=["epoll", "threads", "asyncio_loop", "http"])
def remote(request: pytest.FixtureRequest) -> Iterator[RemoteService]:
    config = compose_run([f"io={request.param}", "model=fixed_cost", "frontend=webrtc"])
    service = make_service(config, [1.0], [1.0])
    assert isinstance(service, RemoteService)
    service.start()
    yield service
    service.close()


def test_a_server_answers_like_the_same_service_in_this_process(remote: RemoteService) -> None:
    local = make_service(compose_run(["model=fixed_cost", "frontend=webrtc"]), [1.0], [1.0])
    local.start()
    for seconds in (0.5, 1.0, 7.0):
        request = Request("r", tone_wav(seconds))
        here, there = local.handle(request), remote.handle(request)
        assert there.transcript is not None
        assert here.transcript is not None
        assert there.transcript.text == here.transcript.text
    local.close()


def test_the_reply_lies_on_the_clients_clock(remote: RemoteService) -> None:
    reply = remote.handle(Request("r", tone_wav(2.0)))
    spans = {span.name for span in reply.spans}
    assert {"ipc", "decode", "reply"} <= spans
    assert all(reply.started_ns <= s.start_ns <= s.end_ns <= reply.finished_ns for s in reply.spans)


def test_a_recording_that_is_none_is_an_error_of_its_own(remote: RemoteService) -> None:
    bad = remote.handle(Request("bad", b"not audio at all" * 100))
    assert bad.transcript is None
    assert bad.error
    assert remote.handle(Request("good", tone_wav(1.0))).error is None


def test_the_evidence_is_the_servers(remote: RemoteService) -> None:
    remote.handle(Request("r", tone_wav(1.0)))
    evidence = remote.evidence()
    assert evidence["topology"]
    assert evidence["engine"]["requests"] >= 1


def test_a_server_that_dies_fails_the_request_not_the_client() -> None:
    config = compose_run(["io=epoll", "model=fixed_cost", "frontend=webrtc"])
    service = RemoteService(server_plan(config, [1.0], [1.0]), 60.0)
    service.start()
    assert service.handle(Request("r", tone_wav(1.0))).error is None
    os.kill(service.pid, signal.SIGKILL)
    assert "connection" in (service.handle(Request("r", tone_wav(1.0))).error or "")
    service.close()


def test_what_a_process_of_the_server_builds_is_heard() -> None:
    config = compose_run(["io=epoll", "topology=collapsed", "ipc=shared_memory", "model=fixed_cost"])
    service, heard = make_service(config, [1.0], [1.0]), list[tuple[str, int, int]]()
    service.start(lambda what, done=0, total=0: heard.append((what, done, total)))
    service.close()
    assert heard == [("model fixed_cost", 0, 0)]
