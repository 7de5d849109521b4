"""Recordings over the wire, through a real server with the real front end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from harness.measure.ledger import balance
from harness.protocols import Engine, Request
from harness.protocols.server import ServerPlan
from harness.protocols.sockets import Address
from harness.spans import Span
from harness.workload.client_recordings import RecordingClient, _sending
from harness.workload.loops import Completed, closed_loop, open_loop
from harness.workload.server_process import ServerProcess
from tests.variants.topology import parts


@pytest.fixture(scope="module", params=["epoll", "threads", "asyncio_loop"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    spec = parts.ServiceSpec(parts.make_frontend, parts.make_engine)
    with ServerProcess(ServerPlan(spec, io=request.param)) as process:
        yield process


def text_in_one_process(payload: bytes) -> str:
    service = parts.build("inprocess")
    service.start()
    try:
        transcript = service.handle(Request("reference", payload)).transcript
    finally:
        service.close()
    return transcript.text if transcript else ""


def test_the_answer_is_the_same_as_without_a_wire(server: ServerProcess) -> None:
    client = RecordingClient(server.address)
    for length_s in (0.5, 20.0, 60.0):  # the longest is larger than a frame
        payload = parts.recording(length_s)
        reply = client.handle(Request("a", payload))
        assert reply.error is None
        assert reply.transcript is not None
        assert reply.transcript.text == text_in_one_process(payload)
    client.close()


def test_the_spans_leave_nothing_out(server: ServerProcess) -> None:
    client = RecordingClient(server.address)
    reply = client.handle(Request("a", parts.recording(2.0)))
    client.close()
    names = [span.name for span in reply.spans]
    assert names[0] == "ipc"
    assert names[-1] == "reply"
    assert reply.spans[0].start_ns == reply.started_ns
    assert reply.spans[-1].end_ns == reply.finished_ns
    assert all(span.end_ns >= span.start_ns for span in reply.spans)
    assert reply.segments > 0
    assert reply.speech_s > 0


def test_the_wait_for_the_worker_is_a_queue_behind_sockets_too() -> None:
    """Three clients at once, an engine that takes its time: the last waits for the two before it."""
    spec = parts.ServiceSpec(parts.make_frontend, partial(slow_engine, 0.2))
    with ServerProcess(ServerPlan(spec)) as process:
        client = RecordingClient(process.address)
        payload = parts.recording(0.5)
        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(lambda n: client.handle(Request(str(n), payload)), range(3)))
        client.close()
    last = max(replies, key=lambda reply: reply.finished_ns)
    spent = balance(last.spans, last.started_ns, last.finished_ns).seconds
    assert spent["queue"] > spent["ipc"]
    assert spent["queue"] > 0.3  # two engine calls, by the clock of the engine


def slow_engine(seconds: float) -> Engine:
    return parts.make_engine(per_request_s=seconds)


def test_what_happens_between_client_and_server_is_in_no_span() -> None:
    """The server began long after the client had sent: neither worked, and no name covers it."""
    server = (Span("ipc", 500, 520), Span("queue", 520, 530), Span("decode", 530, 600))
    assert _sending(0, 100, server) == (Span("ipc", 0, 100), *server)
    together = (Span("ipc", 40, 160), Span("decode", 160, 600))
    assert _sending(0, 100, together) == (Span("ipc", 0, 100), Span("ipc", 100, 160), together[1])
    ahead = (Span("ipc", 40, 90), Span("decode", 90, 600))  # all was read before ``send`` returned
    assert _sending(0, 100, ahead) == (Span("ipc", 0, 90), ahead[1])


def test_a_broken_recording_costs_its_own_reply(server: ServerProcess) -> None:
    client = RecordingClient(server.address)
    failed = client.handle(Request("bad", b"not audio"))
    served = client.handle(Request("good", parts.recording(1.0)))
    client.close()
    assert failed.error is not None
    assert failed.transcript is None
    assert served.error is None


def test_it_drives_both_loops(server: ServerProcess) -> None:
    client = RecordingClient(server.address)
    payload = parts.recording(0.5)
    done: list[Completed] = []
    closed_loop(client, lambda index: Request(str(index), payload), [range(5)], done.append)  # type: ignore[arg-type]
    offsets_s = [0.01 * k for k in range(10)]
    open_loop(client, lambda index: Request(str(index), payload), offsets_s, 3, done.append)  # type: ignore[arg-type]
    client.close()
    assert len(done) == 15
    assert {completed.reply.error for completed in done} == {None}


def test_threads_have_connections_of_their_own(server: ServerProcess) -> None:
    client = RecordingClient(server.address)
    payloads = [parts.recording(0.5, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda p: client.handle(Request("a", p)), payloads))
    client.close()
    texts = [reply.transcript.text for reply in replies if reply.transcript]
    assert texts == [text_in_one_process(payload) for payload in payloads]


def test_a_server_that_is_not_there_is_an_error_of_the_request() -> None:
    reply = RecordingClient(Address(path="/nonexistent/socket")).handle(Request("a", b""))
    assert reply.error is not None
    assert "/nonexistent/socket" in reply.error


def test_a_client_that_waited_too_long_connects_anew() -> None:
    spec = parts.ServiceSpec(parts.make_frontend, parts.make_engine)
    plan = ServerPlan(spec, io_options={"idle_timeout_s": 0.2})
    with ServerProcess(plan) as process:
        client = RecordingClient(process.address)
        assert client.handle(Request("a", parts.recording(0.5))).error is None
        time.sleep(0.8)  # the server hangs up meanwhile
        again = client.handle(Request("b", parts.recording(0.5)))
    client.close()
    assert again.error is None
