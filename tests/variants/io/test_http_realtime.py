"""Live sound over a websocket: a real server over a real backend, met by the websockets library."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
import soxr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from harness.protocols import ServiceSpec
from harness.protocols.server import ServerPlan
from harness.workload.server_process import ServerProcess
from tests.variants.io.test_http import served
from tests.variants.io.test_servers import RawFloats, engine, stream_text
from variants.io.http import HttpServer
from variants.io.http_sound import Ear, Format, SoundError

TEXT = "conversation.item.input_audio_transcription"
AT_16K = {"type": "audio/pcm", "rate": 16_000}


class Live:
    """A client of the realtime protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        assert self.receive()["type"] == "session.created"

    def send(self, kind: str, **content: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **content}))

    def receive(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.connection.recv(timeout=10.0))
        return event

    def until(self, kind: str) -> dict[str, Any]:
        while (event := self.receive())["type"] != kind:
            assert event["type"] != "error", event
        return event

    def format(self, form: Any = AT_16K) -> dict[str, Any]:
        self.send("session.update", session={"type": "transcription", "audio": {"input": {"format": form}}})
        return self.receive()

    def append(self, data: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())


@contextmanager
def live(server: HttpServer) -> Iterator[Live]:
    with connect(f"ws://{server.address}/v1/realtime?intent=transcription", proxy=None) as connection:
        yield Live(connection)


def sound(seed: int, samples: int = 1600) -> bytes:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2").tobytes()


# ---------------------------------------------------------------- conversations


def test_what_is_appended_and_committed_is_transcribed() -> None:
    chunks = [sound(n) for n in range(5)]
    with served(cost={"partial_every_s": 0.1}) as server, live(server) as client:
        assert client.format()["session"]["audio"]["input"]["format"] == AT_16K
        for chunk in chunks:
            client.append(chunk)
        client.send("input_audio_buffer.commit")
        events = [client.receive()]
        while events[-1]["type"] != f"{TEXT}.completed":
            events.append(client.receive())
    kinds = [event["type"] for event in events]
    assert "input_audio_buffer.committed" in kinds
    assert f"{TEXT}.delta" in kinds
    assert events[-1]["transcript"] == stream_text(*chunks)
    assert len({event["item_id"] for event in events}) == 1
    assert len({event["event_id"] for event in events}) == len(events)


def test_items_follow_each_other_and_a_cleared_one_is_forgotten() -> None:
    with served() as server, live(server) as client:
        client.format()
        client.append(sound(1))
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        items = []
        for seed in (2, 3):
            client.append(sound(seed))
            client.send("input_audio_buffer.commit")
            done = client.until(f"{TEXT}.completed")
            assert done["transcript"] == stream_text(sound(seed))
            items.append(done["item_id"])
        assert len(set(items)) == 2
        assert server.evidence()["io"]["streams"] == 1


def test_the_usual_24_khz_are_resampled_without_a_seam() -> None:
    whole = np.sin(np.arange(24_000) / 20).astype(np.float32)
    wire = (whole * 20_000).astype("<i2")
    ear = Ear(Format(), 16_000)
    pieces = [ear.hear(base64.b64encode(wire[n : n + 1000].tobytes())) for n in range(0, 24_000, 1000)]
    heard = np.concatenate([*pieces, ear.end()])
    at_once = soxr.resample(wire.astype(np.float32) / 32768, 24_000, 16_000)
    assert len(heard) == len(at_once)
    assert np.abs(heard - at_once).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "code", "value"),
    [
        *(
            ("audio/pcmu", code, value)
            for code, value in ((0x80, 32124), (0, -32124), (0xFF, 0), (0xEF, 132))
        ),
        *(
            ("audio/pcma", code, value)
            for code, value in ((0xAA, 32256), (0x2A, -32256), (0xD5, 8), (0x55, -8))
        ),
    ],
)
def test_telephone_codes_are_those_of_g_711(name: str, code: int, value: int) -> None:
    heard = Ear(Format.of({"type": name}), 8000).hear(base64.b64encode(bytes([code])))
    assert heard.tolist() == [value / 32768]


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
def test_every_telephone_code_is_python_s_own(name: str) -> None:
    audioop = pytest.importorskip("audioop", reason="Python 3.13 has it no more")
    decode = {"audio/pcmu": audioop.ulaw2lin, "audio/pcma": audioop.alaw2lin}[name]
    codes = bytes(range(256))
    heard = Ear(Format.of({"type": name}), 8000).hear(base64.b64encode(codes))
    assert (heard * 32768).astype(int).tolist() == np.frombuffer(decode(codes, 2), "<i2").tolist()


def test_earlier_names_of_formats_are_known() -> None:
    assert Format.of("g711_ulaw") == Format("audio/pcmu", 8000)
    for wrong in ("mp3", {"type": "opus"}, {"type": "audio/pcm", "rate": 0}, None, []):
        with pytest.raises(SoundError):
            Format.of(wrong)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "{",
        "[" * 50_000,
        "[]",
        '{"type": "response.create"}',
        '{"type": ["x"]}',
        '{"type": "session.update"}',
        '{"type": "input_audio_buffer.commit"}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.append", "audio": "AAAA"}',
        '{"type": "session.update", "session": {"input_audio_format": "mp3"}}',
    ],
    ids=range(12),
)
def test_a_bad_event_is_told_so_and_the_conversation_goes_on(sent: str) -> None:
    with served() as server, live(server) as client:
        client.format()
        client.connection.send(sent)
        assert client.receive()["type"] == "error"
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.append(sound(1))
        client.send("input_audio_buffer.commit")
        assert client.until(f"{TEXT}.completed")["transcript"] == stream_text(sound(1))


def test_another_path_has_no_websocket() -> None:
    with served() as server, pytest.raises(InvalidStatus):
        connect(f"ws://{server.address}/v1/elsewhere", proxy=None)


def test_a_silent_client_is_told_and_closed() -> None:
    with served(idle_timeout_s=0.2) as server, live(server) as client:
        assert client.receive()["type"] == "error"
        with pytest.raises(ConnectionClosed):
            client.receive()


def test_a_client_is_not_idle_while_the_server_owes_it_an_answer() -> None:
    with served(idle_timeout_s=0.1, cost={"per_request_s": 0.6}) as server, live(server) as client:
        client.format()
        client.append(sound(1))
        client.send("input_audio_buffer.commit")
        assert client.until(f"{TEXT}.completed")["transcript"] == stream_text(sound(1))


def test_an_item_has_a_size() -> None:
    with served(max_upload_bytes=5000) as server, live(server) as client:
        client.format()
        client.append(bytes(6000))
        assert "at most 5000 bytes" in client.receive()["error"]["message"]


@pytest.mark.slow  # the sockets' buffers take tens of thousands of events before they are full
def test_a_client_that_does_not_read_is_closed() -> None:
    with served(slow_peer_timeout_s=0.3) as server, live(server) as client:
        with pytest.raises((ConnectionClosed, TimeoutError, OSError)):
            for _ in range(200_000):  # each is answered with an error that quotes it
                client.connection.socket.settimeout(5.0)
                client.connection.send("x" * 60)
        with live(server) as other:
            assert other.format()["type"] == "session.updated"


def test_a_busy_backend_slows_the_client_down_and_loses_nothing() -> None:
    chunks = [sound(n, 160) for n in range(40)]
    with served(cost={"per_audio_s": 0.2}, max_jobs=2) as server, live(server) as client:
        client.format()
        for chunk in chunks:
            client.append(chunk)
        client.send("input_audio_buffer.commit")
        assert client.until(f"{TEXT}.completed")["transcript"] == stream_text(*chunks)


def test_a_drain_closes_conversations() -> None:
    with served() as server, live(server) as client:
        client.format()
        client.append(sound(1))
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


# ---------------------------------------------------------------- hostile clients


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_conversations_cost_themselves_alone(count: int) -> None:
    rng = random.Random(5)
    plan = ServerPlan(ServiceSpec(RawFloats, engine), io="http", io_options={"slow_peer_timeout_s": 5.0})
    with ServerProcess(plan) as server:
        for _ in range(20):
            _misbehave(server, rng)
        before = psutil.Process(server.pid).memory_info().rss
        for _ in range(count):
            _misbehave(server, rng)
        grown = psutil.Process(server.pid).memory_info().rss - before
        with connect(f"ws://{server.address}/v1/realtime", proxy=None) as connection:
            client = Live(connection)
            client.format()
            client.append(sound(9))
            client.send("input_audio_buffer.commit")
            assert client.until(f"{TEXT}.completed")["transcript"] == stream_text(sound(9))
        found = server.stop().evidence["io"]
    assert grown < 32 << 20
    assert not [error for error in found["errors"] if error.startswith("internal_")]


def _misbehave(server: ServerProcess, rng: random.Random) -> None:
    try:
        with connect(
            f"ws://{server.address}/v1/realtime", proxy=None, close_timeout=0.1, max_size=None
        ) as connection:
            match rng.randrange(5):
                case 0:
                    connection.socket.sendall(rng.randbytes(rng.randint(1, 3000)))
                    connection.recv(timeout=1.0)
                    connection.recv(timeout=1.0)
                case 1:
                    connection.send(rng.randbytes(3000))
                    connection.recv(timeout=1.0)
                case 2:
                    connection.send("x" * (5 << 20))
                    connection.recv(timeout=1.0)
                    connection.recv(timeout=1.0)
                case 3:
                    audio = base64.b64encode(rng.randbytes(3000)).decode()
                    for _ in range(20):
                        connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                    connection.socket.close()
                case _:
                    connection.send([b"a", b"b"])
                    connection.socket.close()
    except (ConnectionClosed, OSError, EOFError):
        pass
