"""The HTTP door: a real server over a real backend, met by httpx, by bare sockets and by bad clients."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from harness.errors import UsageError
from harness.protocols import ServiceSpec
from harness.protocols.server import ServerPlan
from harness.protocols.sockets import Address, connect
from harness.spans import SPAN_NAMES
from harness.workload.server_process import ServerProcess
from tests.variants.io.test_servers import RawFloats, engine, text_of
from variants import registry
from variants.io.http import HttpServer

SOUND = np.arange(5000, dtype="<f4").tobytes()
PATH = "/v1/audio/transcriptions"


@contextmanager
def served(cost: Mapping[str, Any] | None = None, **options: Any) -> Iterator[HttpServer]:
    """A server in a thread of this process; leaves nothing behind."""
    backend = registry.load("topology", "inprocess")(ServiceSpec(RawFloats, partial(engine, **(cost or {}))))
    backend.start()
    server: HttpServer = registry.make("io", "http", options, backend)
    server.bind()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20.0)
        backend.close()
        server.close()
        assert not thread.is_alive()


def client(server: HttpServer, timeout_s: float = 10.0) -> httpx.Client:
    return httpx.Client(base_url=f"http://{server.address}", timeout=timeout_s, trust_env=False)


def transcribed(server: HttpServer, sound: bytes = SOUND, **fields: str) -> httpx.Response:
    with client(server) as http:
        return http.post(PATH, files={"file": ("x.wav", sound)}, data={"model": "any", **fields})


def raw(server: HttpServer, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Everything that a bare socket gets for ``data`` until the server hangs up."""
    with connect(server.address, timeout_s) as sock:
        sock.sendall(data)
        return _all_of(sock)


def _all_of(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def head(length: int, more: str = "") -> bytes:
    kind = "multipart/form-data; boundary=b"
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n{more}content-length: {length}\r\n\r\n"
    ).encode()


def form(sound: bytes, end: bytes = b"\r\n--b--\r\n") -> bytes:
    return b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n' + sound + end


# ---------------------------------------------------------------- what is answered


def test_a_recording_is_answered_in_every_shape() -> None:
    text = text_of(SOUND)
    with served() as server:
        plain = transcribed(server, response_format="text")
        short = transcribed(server)
        long = transcribed(server, response_format="verbose_json").json()
        streamed = transcribed(server, stream="true")
    assert plain.text == text
    assert short.json()["text"] == text
    assert (long["text"], long["batch_size"]) == (text, 1)
    assert [name for name, _, _ in long["spans"]][-1] == "reply"
    (segment,) = long["segments"]
    assert (segment["start"], segment["text"]) == (0.0, text)
    assert segment["end"] == pytest.approx(5000 / 16000, abs=1e-3)
    assert streamed.headers["content-type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert [event["type"] for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[-1]["text"] == text


def test_server_timing_says_where_the_time_went() -> None:
    with served(cost={"per_request_s": 0.05}) as server:
        timing = transcribed(server).headers["server-timing"]
    parts = dict(part.split(";dur=") for part in timing.split(", "))
    assert set(parts) <= set(SPAN_NAMES)
    assert {"ipc", "queue", "decode", "encoder", "reply"} <= set(parts)
    assert sum(map(float, parts.values())) >= 50.0


def test_a_connection_serves_one_request_after_the_other() -> None:
    with served() as server, client(server) as http:
        for n in range(1, 4):
            sound = SOUND[: 400 * n]
            answer = http.post(PATH, files={"file": ("x", sound)}, data={"response_format": "text"})
            assert answer.text == text_of(sound)
        assert server.evidence()["io"]["connections"] == 1


def test_metrics_health_and_models() -> None:
    with served(model="mine") as server, client(server) as http:
        transcribed(server)
        assert http.get("/health").status_code == http.get("/ready").status_code == 200
        assert http.get("/v1/models").json()["data"][0]["id"] == "mine"
        assert http.get("/").headers["content-type"].startswith("text/html")
        lines = http.get("/metrics").text.splitlines()
    assert f'asr_requests_total{{route="{PATH}",status="200"}} 1' in lines
    assert "asr_transcription_seconds_count 1" in lines
    assert 'asr_transcription_seconds_bucket{le="+Inf"} 1' in lines
    assert "asr_buffered_bytes 0" in lines


def test_evidence_counts_answers() -> None:
    with served() as server:
        transcribed(server)
        transcribed(server, sound=b"odd")
        found = server.evidence()["io"]
    assert (found["kind"], found["recordings"], found["io_threads"]) == ("http", 1, 1)
    assert found["answers"] == {f"{PATH} 200": 1, f"{PATH} 422": 1}
    assert "not_engaged" not in found


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("GET", "/nowhere", {}), 404),
        (("GET", PATH, {}), 405),
        (("POST", PATH, {"json": {"file": "x"}}), 415),
        (("POST", PATH, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}), 400),
        (("POST", PATH, {"files": {"sound": b"x"}}), 400),
        (("POST", PATH, {"files": [("file", b"1"), ("file", b"2")]}), 400),
        (("POST", PATH, {"files": {"file": b""}, "data": {"response_format": "srt"}}), 400),
        (
            (
                "POST",
                PATH,
                {"files": {"file": b""}, "data": {"timestamp_granularities[]": ["segment", "word"]}},
            ),
            400,
        ),
        (("POST", PATH, {"files": [(f"part{n}", b"1") for n in range(40)]}), 400),
        (("POST", PATH, {"files": {"file": b"abc"}}), 422),
        (("POST", PATH, {"files": {"file": bytes(5000)}}), 413),
        (("POST", PATH, {"files": {"file": b""}, "data": {"prompt": "x" * 70_000}}), 413),
    ],
    ids=lambda value: str(value[1]) if isinstance(value, tuple) else str(value),
)
def test_a_bad_request_is_told_what_is_wrong(request_: tuple[str, str, dict[str, Any]], status: int) -> None:
    method, path, content = request_
    with served(max_upload_bytes=4000) as server, client(server) as http:
        answer = http.request(method, path, **content)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert http.get("/health").status_code == 200


def test_a_form_that_is_cut_off_is_refused() -> None:
    with served() as server:
        body = form(SOUND, end=b"")
        assert b" 400 " in raw(server, head(len(body), "connection: close\r\n") + body)


def test_a_body_that_states_that_it_is_too_large_is_refused_before_it_is_read() -> None:
    with served(max_upload_bytes=4000) as server:
        assert b" 413 " in raw(server, head(1 << 40))


def test_a_body_without_end_costs_no_memory() -> None:
    head_ = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n".encode()
    with served(max_upload_bytes=1 << 20) as server, connect(server.address) as sock:
        sock.sendall(head_ + b"content-type: multipart/form-data; boundary=b\r\n\r\n")
        piece, held, ends = form(bytes(1 << 16), end=b""), 0, time.monotonic() + 20.0
        with pytest.raises(OSError):
            while time.monotonic() < ends:
                sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                piece = bytes(1 << 16)
                held = max(held, server.evidence()["io"]["buffered_bytes"])
        _until_empty(server)
        assert held < 2 << 20


def _until_empty(server: HttpServer) -> None:
    deadline = time.monotonic() + 10.0
    while server.evidence()["io"]["buffered_bytes"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_uploads_together_hold_no_more_than_they_may() -> None:
    with served(max_buffered_bytes=10_000) as server:
        body = form(bytes(4000), end=b"")
        with connect(server.address) as first, connect(server.address) as second:
            first.sendall(head(9000) + body)
            while server.evidence()["io"]["buffered_bytes"] < len(body):
                time.sleep(0.005)
            second.sendall(head(9000) + body)
            assert b" 503 " in second.recv(65536)
        _until_empty(server)


def test_a_full_queue_is_told_to_come_back() -> None:
    with served(cost={"per_request_s": 0.5}, max_queued=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(transcribed, server)
        while b"asr_queued_recordings 1" not in client(server).get("/metrics").content:
            time.sleep(0.01)
        second = transcribed(server)
        assert client(server).get("/ready").status_code == 429
        assert first.result().status_code == 200
    assert second.status_code == 429
    assert int(second.headers["retry-after"]) >= 1


def test_uploads_that_began_while_there_was_room_do_not_pass_the_bound() -> None:
    body = form(SOUND)
    slow = served(cost={"per_request_s": 0.5}, max_queued=1)
    with slow as server, connect(server.address, 10.0) as first, connect(server.address, 10.0) as second:
        for sock in (first, second):
            sock.sendall(head(len(body)) + body[:-1])
        while server.evidence()["io"]["buffered_bytes"] < 2 * (len(body) - 1):
            time.sleep(0.005)
        for sock in (first, second):
            sock.sendall(body[-1:])
        statuses = sorted(sock.recv(65536).split()[1] for sock in (first, second))
    assert statuses == [b"200", b"429"]


def test_one_client_too_many_is_turned_away() -> None:
    with served(max_connections=1) as server, client(server) as http:
        assert http.get("/health").status_code == 200
        assert b" 503 " in raw(server, b"")
        assert http.get("/health").status_code == 200


def test_only_loopback_is_listened_on() -> None:
    with pytest.raises(UsageError, match="only loopback"), served(host="0.0.0.0"):
        pass


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nhost: x\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(sent: bytes) -> None:
    with served(slow_peer_timeout_s=0.2) as server:
        assert b" 408 " in raw(server, sent)


def test_a_second_request_s_headers_are_not_waited_for_either() -> None:
    with served(slow_peer_timeout_s=0.2) as server:
        whole = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        assert b" 408 " in raw(server, whole + whole[:10])


@pytest.mark.parametrize("limits", [{"slow_peer_timeout_s": 0.2}, {"upload_timeout_s": 0.3}])
def test_a_body_that_does_not_come_is_not_waited_for(limits: dict[str, float]) -> None:
    with served(**limits) as server:
        assert b" 408 " in raw(server, head(5000) + form(bytes(100), end=b""))
        _until_empty(server)


def test_an_idle_connection_is_closed() -> None:
    with served(idle_timeout_s=0.2) as server:
        answer = raw(server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.endswith(b"ok\n")


# ---------------------------------------------------------------- the end


def test_a_drain_answers_what_is_under_way() -> None:
    with served(cost={"per_request_s": 0.4}) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(transcribed, server)
        while b"asr_queued_recordings 1" not in client(server).get("/metrics").content:
            time.sleep(0.01)
        server.stop()
        assert answer.result().json()["text"] == text_of(SOUND)
        with pytest.raises(httpx.ConnectError):
            transcribed(server)


def test_a_drain_does_not_wait_for_ever() -> None:
    with served(drain_timeout_s=0.2) as server, connect(server.address) as slow:
        slow.sendall(head(5000) + form(bytes(100), end=b""))
        while not server.evidence()["io"]["buffered_bytes"]:
            time.sleep(0.005)
        server.stop()
        slow.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):
            _all_of(slow)


def test_sigterm_ends_the_process_in_order() -> None:
    with ServerProcess(ServerPlan(ServiceSpec(RawFloats, engine), io="http")) as server:
        url = f"http://{server.address}{PATH}"
        assert httpx.post(url, files={"file": SOUND}, trust_env=False).json()["text"] == text_of(SOUND)
        ended = server.stop()
    assert ended.evidence["io"]["answers"] == {f"{PATH} 200": 1}


# ---------------------------------------------------------------- hostile clients


def attack(rng: random.Random) -> bytes:
    """Something that is not a request, or one that was damaged on the way."""
    whole = bytearray(head(len(form(SOUND[:400]))) + form(SOUND[:400]))
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randint(1, 3000))
        case 1:
            for _ in range(rng.randint(1, 8)):
                whole[rng.randrange(len(whole))] = rng.randrange(256)
            return bytes(whole)
        case 2:
            return bytes(whole[: rng.randrange(len(whole))])
        case 3:
            return head(rng.randint(0, 1 << 40)) + form(rng.randbytes(300))
        case 4:
            return b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * rng.randint(1000, 20_000)
        case _:
            return head(10) + form(rng.randbytes(300)) * 3


def carry_out(data: bytes, address: Address) -> str:
    with connect(address, 20.0) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except TimeoutError:
            return "unanswered"
        except OSError:
            pass
    return "closed"


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_clients_cost_their_own_request(count: int) -> None:
    rng = random.Random(17)
    options = {"slow_peer_timeout_s": 5.0, "max_upload_bytes": 1 << 20}
    plan = ServerPlan(ServiceSpec(RawFloats, engine), io="http", io_options=options)
    with ServerProcess(plan) as server, ThreadPoolExecutor(8) as pool:
        for data in [attack(rng) for _ in range(100)]:
            carry_out(data, server.address)
        before = psutil.Process(server.pid).memory_info().rss
        outcomes = list(
            pool.map(lambda data: carry_out(data, server.address), [attack(rng) for _ in range(count)])
        )
        url = f"http://{server.address}{PATH}"
        assert httpx.post(url, files={"file": SOUND}, trust_env=False).json()["text"] == text_of(SOUND)
        grown = psutil.Process(server.pid).memory_info().rss - before
        found = server.stop().evidence["io"]
    assert set(outcomes) == {"closed"}
    assert grown < 32 << 20
    assert found["buffered_bytes"] == 0
    assert not [error for error in found["errors"] if error.startswith("internal_")]
