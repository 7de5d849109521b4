"""A foreign server as a service: what is understood of good answers, and what bad ones cost."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.load import compose_run
from harness.config.rules import check
from harness.config.schema import TargetConfig
from harness.errors import UnavailableError, UsageError
from harness.protocols import Reply, Request
from harness.target.service import TargetService, server_timing
from tests.harness.target.servers import (
    Act,
    hangs_up_after,
    repeats,
    response,
    saying,
    sends,
    serving,
    silent,
)

WAV = b"RIFF....WAVE" + bytes(300_000)
DONE = b'data: {"type": "transcript.text.done", "text": "hello"}\n\ndata: [DONE]\n\n'
DELTA = b'event: x\ndata: {"type": "transcript.text.delta", "delta": "he"}\n\n'


def target(url: str, **options: object) -> TargetConfig:
    return replace(TargetConfig(name="openai", url=url, timeout_s=1.0), **options)


def asked(act: Act, **options: object) -> Reply:
    with serving(act) as url:
        service = TargetService(target(url, **options))
        try:
            return service.handle(Request("r", WAV))
        finally:
            service.close()


# ---------------------------------------------------------------- good answers


@pytest.mark.parametrize(
    "answer",
    [
        saying("hello"),
        response(b"hello\n", kind="text/plain; charset=utf-8"),
        response(b'{"text": "hello", "duration": 1.0, "segments": []}'),
        response(DELTA + DONE, kind="text/event-stream"),
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b'11\r\n{"text": "hello"}\r\n0\r\n\r\n',
    ],
    ids=["json", "text", "verbose", "events", "chunked"],
)
def test_every_shape_of_an_answer_is_understood(answer: bytes) -> None:
    reply = asked(sends(answer))
    assert reply.error is None
    assert reply.transcript is not None
    assert reply.transcript.text == "hello"


def test_the_spans_are_all_of_the_time() -> None:
    def slow(sock: socket.socket, _request: bytes) -> None:
        time.sleep(0.05)
        sock.sendall(saying("hello")[:-3])
        time.sleep(0.3)
        sock.sendall(saying("hello")[-3:])

    reply = asked(slow)
    seconds = dict.fromkeys(("connect", "upload", "wait", "download"), 0.0)
    reached_ns = reply.started_ns
    for span in reply.spans:
        assert span.start_ns == reached_ns, "a gap, or an overlap"
        reached_ns = span.end_ns
        seconds[span.name] += span.duration_s
    assert reached_ns == reply.finished_ns
    assert seconds["wait"] >= 0.05
    assert seconds["download"] >= 0.15  # the first byte may be noticed late
    assert seconds["connect"] > 0


def test_a_request_is_what_the_api_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def note(sock: socket.socket, request: bytes) -> None:
        seen.append(request)
        sock.sendall(saying("hello"))

    monkeypatch.setenv("SOME_KEY", "s3cret")
    asked(note, key_variable="SOME_KEY", language="en", model="whisper-9")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/audio/transcriptions HTTP/1.1\r\n")
    assert b"Bearer s3cret" in head
    for part in (b'name="model"\r\n\r\nwhisper-9', b'name="language"\r\n\r\nen', b'filename="recording.wav"'):
        assert part in body
    assert WAV in body


def test_connections_are_kept_and_the_server_s_own_timing_is_evidence() -> None:
    timing = "server-timing: decode;dur=2, model;desc=x;dur=10.5, cache\r\nserver: other/1.2\r\n"
    with serving(sends(saying("hello", timing))) as url:
        service = TargetService(target(url))
        for _ in range(3):
            assert service.handle(Request("r", WAV)).error is None
        found = service.evidence()["target"]
        service.close()
    assert (found["answers"], found["connections"], found["failed"]) == ({"200": 3}, 1, 0)
    assert found["server_timing_s"] == pytest.approx({"decode": 0.002, "model": 0.0105})
    assert found["versions"] == {"server": ["other/1.2"]}
    assert found["retries"] == 0
    assert found["connecting_s"]["dns"] > 0
    assert found["connecting_s"]["tcp"] > 0
    assert found["connecting_s"]["tls"] == 0
    assert found["host"] == url.split("/")[2]


def test_timing_that_makes_no_sense_is_left_out() -> None:
    assert dict(server_timing('a;dur=x, b;dur="3", ;dur=1, c')) == {"b": 0.003}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is there to make a certificate")
@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_spoken_with_whom_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext"
    files = ["subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(sends(saying("hello")), tls=context) as url:
        service = TargetService(target(url.replace("http://127.0.0.1", "https://localhost"), timeout_s=10.0))
        reply = service.handle(Request("r", WAV))
        service.close()
    assert ("certificate verify failed" in (reply.error or "")) != trusted
    assert (reply.error is None) == trusted


# ---------------------------------------------------------------- bad ones


def endless(sock: socket.socket, request: bytes) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    repeats(bytes(65536))(sock, request)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (silent, "timed out after 1 s before the answer came"),
        (repeats(b"H", 0.1), "timed out|broke"),
        (repeats(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9999), "connection broke"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"), "timed out after 1 s while the answer"),
        (hangs_up_after(b""), "connection broke before the answer came"),
        (hangs_up_after(b"HTTP/1.1 200"), "connection broke"),
        (hangs_up_after(saying("hello")[:-3]), "connection broke while the answer was read"),
        (hangs_up_after(b"SSH-2.0-OpenSSH\r\n"), "connection broke"),
        (sends(response(b"{")), "not JSON"),
        (sends(response(b"[1]")), "no JSON object"),
        (sends(response(b"[" * 100_000)), "not JSON"),
        (sends(response(b'{"text": 5}')), "has no text"),
        (sends(response(b"\xff\xfe")), "not UTF-8"),
        (sends(response(b"<html>", kind="text/html")), "not JSON, text or events"),
        (sends(response(DELTA, kind="text/event-stream")), "before transcript.text.done"),
        (sends(response(b'data: {"type": "error"}\n', kind="text/event-stream")), "broke off"),
        (sends(response(b'{"error": {"message": "no GPU left"}}', "500 Oops")), "HTTP 500: no GPU left"),
        (sends(response(b"", "429 Busy", more="retry-after: 7\r\n")), "HTTP 429, retry after 7 s"),
        (sends(response(b"", "302 Found", more="location: /here\r\n")), "it redirects to /here"),
        (endless, "longer than 1000000 bytes"),
    ],
    ids=[
        *("silent", "dribbling", "endless header", "short body", "hangs up", "half a header", "half a body"),
        *("not http", "half json", "list", "deep json", "no text", "not utf-8", "html", "half a stream"),
        *("error event", "500", "429", "redirect", "endless body"),
    ],
)  # fmt: skip
def test_a_bad_server_costs_its_request(act: Act, why: str) -> None:
    reply = asked(act, max_answer_bytes=1_000_000)
    assert reply.transcript is None
    assert re.search(why, reply.error or ""), reply.error


def test_the_next_request_connects_again() -> None:
    with serving(hangs_up_after(b""), sends(saying("hello"))) as url:
        service = TargetService(target(url))
        assert service.handle(Request("a", WAV)).error
        assert service.handle(Request("b", WAV)).error is None
        service.close()


BUSY = sends(response(b"", "429 Busy", more="retry-after: 1\r\n"))


def test_what_is_sent_again_says_how_often_and_where_the_time_went() -> None:
    with serving(hangs_up_after(b""), BUSY, sends(saying("hello"))) as url:
        service = TargetService(target(url, retries=2))
        reply = service.handle(Request("r", WAV))
        found = service.evidence()["target"]
        service.close()
    assert (reply.error, reply.attempts, found["retries"], found["failed"]) == (None, 3, 2, 0)
    first, second, _ = (span.duration_s for span in reply.spans if span.name == "wait")
    assert first >= 0.1  # of ours
    assert second >= 1.0  # the server's wish
    assert [one.end_ns for one in reply.spans[:-1]] == [next_.start_ns for next_ in reply.spans[1:]]


@pytest.mark.parametrize(
    ("acts", "retries", "attempts"),
    [
        ([BUSY, sends(saying("hello"))], 0, 1),
        ([hangs_up_after(b""), hangs_up_after(b""), sends(saying("hello"))], 1, 2),
        ([sends(response(b"", "400 Bad")), sends(saying("hello"))], 5, 1),
        ([sends(response(b"{")), sends(saying("hello"))], 5, 1),
    ],
    ids=["not asked to", "too often", "a request that is refused", "an answer that is none"],
)
def test_what_another_attempt_would_not_mend_is_not_sent_again(
    acts: list[Act], retries: int, attempts: int
) -> None:
    with serving(*acts) as url:
        service = TargetService(target(url, retries=retries))
        reply = service.handle(Request("r", WAV))
        assert service.evidence()["target"]["failed"] == 1
        service.close()
    assert reply.error
    assert reply.attempts == attempts


def test_a_host_that_is_to_be_hidden_is_named_nowhere() -> None:
    with serving(sends(response(b"", "302 Found", more="location: http://127.0.0.1/x\r\n"))) as url:
        service = TargetService(target(url, hide_host=True))
        error = service.handle(Request("r", WAV)).error or ""
        host = service.evidence()["target"]["host"]
        service.close()
    assert "127.0.0.1" not in error
    assert re.fullmatch(r"host-[0-9a-f]{12}", host)
    assert host in error


def test_nobody_at_the_address_is_said() -> None:
    service = TargetService(target("http://127.0.0.1:1/v1"))
    assert "connection broke" in (service.handle(Request("r", WAV)).error or "")
    service.close()


def test_a_key_that_the_server_repeats_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    refusal = response(b'{"error": {"message": "bad key s3cret"}}', "401 Unauthorized")
    error = asked(sends(refusal), key_variable="SOME_KEY").error
    assert error == "HTTP 401: bad key [key]"


def test_threads_have_connections_of_their_own() -> None:
    together = threading.Barrier(3, timeout=10.0)

    def answer(sock: socket.socket, _request: bytes) -> None:
        together.wait()
        sock.sendall(saying("hello"))

    with serving(answer) as url:
        service = TargetService(target(url, timeout_s=20.0))
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda: replies.append(service.handle(Request("r", WAV))))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        service.close()
    assert [reply.error for reply in replies] == [None] * 3


# ---------------------------------------------------------------- what is refused before anything is sent


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "give the server's base URL"),
        ("127.0.0.1:8000", "give the server's base URL"),
        ("ftp://host/v1", "http:// or https://"),
        ("http://host:999999/v1", "give the server's base URL"),
        ("http://me:secret@host/v1", "holds no user"),
        ("http://host/v1?key=1", "holds no user, query"),
    ],
)
def test_a_url_that_cannot_be_asked_is_named(url: str, why: str) -> None:
    config = compose_run(["target=openai"])
    with pytest.raises(UsageError, match=why) as error:
        check(replace(config, target=replace(config.target, url=url)))
    assert "secret" not in str(error.value)


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"target\.key_variable=NO_SUCH_KEY"):
        TargetService(target("http://host", key_variable="NO_SUCH_KEY"))
