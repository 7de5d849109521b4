"""Every connection server, through real sockets, over a real backend."""

from __future__ import annotations

import contextlib
import platform
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from harness.errors import RequestError, UsageError
from harness.protocols import Engine, Segment, ServiceSpec
from harness.protocols.options import NoOptions
from harness.protocols.server import ServerPlan
from harness.protocols.sockets import Address, connect, raise_open_files
from harness.protocols.wire import (
    CONNECTION,
    HEADER_BYTES,
    Encoding,
    ErrorCode,
    FrameType,
    Mode,
    Open,
    decode_final,
    encode,
    encode_open,
)
from harness.spans import SpanRecorder
from harness.workload.server_process import ServerProcess
from tests.variants.io.peers import RECORDING, SERVERS, STREAM, Peer, attacks, carry_out, recording, stream
from variants import registry
from variants.batching import alone
from variants.io.types import Server
from variants.models import fixed_cost


class RawFloats:
    """A front end whose containers are float32 values, so that the text is known."""

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[Segment]:
        with spans.span("decode"):
            if len(payload) % 4:
                raise RequestError(f"{len(payload)} bytes are not a whole number of float32 values")
            return [Segment(np.frombuffer(payload, "<f4"), 16_000, 0.0)]

    @property
    def stages(self) -> Sequence[tuple[str, Callable[[Any], Any]]]:
        return ()


def engine(**options: Any) -> Engine:
    cost = SimpleNamespace(options=fixed_cost.Options(**options))
    return alone.build(fixed_cost.build(cost), NoOptions())


def text_of(data: bytes, dtype: str = "<f4", scale: float = 1.0) -> str:
    values = np.frombuffer(data, dtype).astype(np.float32) * np.float32(scale)
    return fixed_cost.Checksum().updated(values).text


def stream_text(*chunks: bytes) -> str:
    return text_of(b"".join(chunks), "<i2", 1 / 32768)


def after_open(*frames: bytes) -> bytes:
    return b"".join([encode_open(1, STREAM), *frames])


@contextmanager
def served(
    io: str, topology: dict[str, Any] | None = None, cost: dict[str, Any] | None = None, **options: Any
) -> Iterator[Server]:
    """A server in a thread of this process; leaves nothing behind."""
    backend = registry.load("topology", "inprocess")(
        ServiceSpec(RawFloats, partial(engine, **(cost or {})), options=topology or {})
    )
    backend.start()
    name, own = SERVERS[io]
    server: Server = registry.make("io", name, {**own, **options}, backend)
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


@pytest.fixture(params=SERVERS)
def io(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---------------------------------------------------------------- sessions


def test_a_recording_is_answered_with_text_and_spans(io: str) -> None:
    payload = np.arange(5000, dtype="<f4").tobytes()
    with served(io) as server, Peer(server.address) as peer:
        peer.send(recording(9, payload[:7001], payload[7001:]))
        frame = peer.until(FrameType.FINAL)
        reply = decode_final(frame.payload)
    assert (frame.session, frame.sequence) == (9, 3)
    assert reply.transcript is not None
    assert reply.transcript.text == text_of(payload)
    served_by = ["queue", "decode", "encoder", "decoder", "reply"]
    assert [span.name for span in reply.spans] == ["ipc", "queue", "queue", *served_by, "reply"]
    assert reply.segments == 1


def test_a_stream_is_acknowledged_and_answered(io: str) -> None:
    chunks = [np.full(1600, k, "<i2").tobytes() for k in range(5)]
    with served(io) as server, Peer(server.address) as peer:
        peer.send(stream(1, *chunks))
        acknowledged = 0
        while (frame := peer.receive()) is not None and frame.type == FrameType.PARTIAL:
            assert frame.sequence > acknowledged
            acknowledged = frame.sequence
        assert frame is not None
        assert frame.type == FrameType.FINAL
        final = decode_final(frame.payload)
    assert acknowledged == 5
    assert final.transcript is not None
    assert final.transcript.text == stream_text(*chunks)


def test_acknowledgements_come_as_often_as_asked_for(io: str) -> None:
    opening = encode_open(1, Open(Mode.STREAM, Encoding.S16LE, ack_every=3, sample_rate=16_000))
    audio = [encode(FrameType.AUDIO, 1, k, bytes(320)) for k in range(1, 8)]
    with served(io, cost={"partial_every_s": 0}) as server, Peer(server.address) as peer:
        peer.send(opening, *audio, encode(FrameType.COMMIT, 1, 8))
        seen = []
        while (frame := peer.receive()) is not None and frame.type == FrameType.PARTIAL:
            seen.append(frame.sequence)
    assert seen == [3, 6]


def test_sessions_share_a_connection_one_after_the_other_and_side_by_side(io: str) -> None:
    with served(io) as server, Peer(server.address) as peer:
        for _ in range(3):  # the number is free again once the session has ended
            peer.send(stream(1, bytes(320)))
            assert peer.until(FrameType.FINAL).session == 1
        peer.send(encode_open(1, STREAM), encode_open(2, STREAM))
        for k in (1, 2):
            peer.send(*(encode(FrameType.AUDIO, s, k, np.full(160, s, "<i2").tobytes()) for s in (1, 2)))
        peer.send(encode(FrameType.COMMIT, 2, 3), encode(FrameType.COMMIT, 1, 3))
        texts = {}
        for _ in range(2):
            frame = peer.until(FrameType.FINAL)
            transcript = decode_final(frame.payload).transcript
            texts[frame.session] = transcript.text if transcript else ""
    assert texts == {s: stream_text(np.full(320, s, "<i2").tobytes()) for s in (1, 2)}


def test_a_failed_recording_costs_its_own_session(io: str) -> None:
    with served(io) as server, Peer(server.address) as peer:
        peer.send(recording(1, b"abc"), recording(2, bytes(8)))
        assert peer.error() is ErrorCode.FAILED
        assert peer.until(FrameType.FINAL).session == 2


def test_a_closed_session_is_forgotten(io: str) -> None:
    with served(io) as server, Peer(server.address) as peer:
        peer.send(
            encode_open(1, STREAM), encode(FrameType.AUDIO, 1, 1, bytes(320)), encode(FrameType.CLOSE, 1)
        )
        peer.send(stream(1, bytes(640)))
        final = decode_final(peer.until(FrameType.FINAL).payload)
    assert final.transcript is not None
    assert final.transcript.text == stream_text(bytes(640))


def test_a_half_closed_client_still_gets_its_answer(io: str) -> None:
    with served(io) as server, Peer(server.address) as peer:
        peer.send(stream(1, bytes(3200)))
        peer.sock.shutdown(socket.SHUT_WR)
        assert peer.until(FrameType.FINAL).session == 1
        assert peer.closed()


def test_tcp_on_loopback(io: str) -> None:
    with served(io, transport="tcp") as server, Peer(server.address) as peer:
        assert server.address.port > 0
        peer.send(stream(1, bytes(320)))
        assert peer.until(FrameType.FINAL)


def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(encode(FrameType.AUDIO, 3, 1, b""), ErrorCode.BAD_SESSION, id="not open"),
        pytest.param(after_open(encode_open(1, STREAM)), ErrorCode.DUPLICATE_SESSION, id="opened twice"),
        pytest.param(after_open(encode(FrameType.AUDIO, 1, 2)), ErrorCode.OUT_OF_ORDER, id="a gap"),
        pytest.param(
            after_open(encode(FrameType.AUDIO, 1, 1), encode(FrameType.AUDIO, 1, 1)),
            ErrorCode.OUT_OF_ORDER,
            id="repeated",
        ),
        pytest.param(
            after_open(encode(FrameType.AUDIO, 1, 1, b"abc")), ErrorCode.BAD_PAYLOAD, id="half a sample"
        ),
        pytest.param(after_open(encode(FrameType.FINAL, 1, 1)), ErrorCode.BAD_PAYLOAD, id="server's frame"),
        pytest.param(
            encode_open(1, Open(Mode.STREAM, Encoding.S16LE, 1, 8000)), ErrorCode.BAD_PAYLOAD, id="rate"
        ),
        pytest.param(encode(FrameType.OPEN, 1, 0, b"x"), ErrorCode.BAD_PAYLOAD, id="short OPEN"),
        pytest.param(
            b"".join(encode_open(n, STREAM) for n in range(1, 18)),
            ErrorCode.TOO_MANY_SESSIONS,
            id="17 sessions",
        ),
        pytest.param(recording(1, bytes(900), bytes(900)), ErrorCode.SESSION_TOO_LARGE, id="too long"),
    ],
)
def test_a_broken_rule_costs_one_session_and_not_its_neighbour(io: str, data: bytes, code: ErrorCode) -> None:
    with (
        served(io, max_session_bytes=1000, cost={"per_request_s": 0.02}) as server,
        Peer(server.address) as peer,
    ):
        peer.send(encode_open(100, STREAM), data)
        assert peer.error() is code
        peer.send(encode(FrameType.AUDIO, 100, 1, bytes(320)), encode(FrameType.COMMIT, 100, 2))
        while (frame := peer.until(FrameType.FINAL)).session != 100:
            pass
        assert frame.session == 100


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", encode_open(0, STREAM)], ids=["http", "session 0"]
)
def test_a_client_that_cannot_be_understood_is_told_and_closed(io: str, data: bytes) -> None:
    with served(io) as server, Peer(server.address) as peer:
        peer.send(data)
        frame = peer.until(FrameType.ERROR)
        assert frame.session == CONNECTION
        assert peer.closed()


def test_no_connection_takes_more_of_the_budget_than_it_leaves_to_the_others(io: str) -> None:
    def piece(sequence: int) -> bytes:
        return encode(FrameType.AUDIO, 1, sequence, bytes(240))

    opened = encode_open(1, Open(Mode.RECORDING))
    with served(io, max_buffered_bytes=1000) as server:
        with Peer(server.address) as greedy, Peer(server.address) as modest:
            greedy.send(opened, piece(1), piece(2), encode_open(2, RECORDING))
            _until(lambda: server.evidence()["io"]["buffered_bytes"] == 480)
            greedy.send(encode(FrameType.AUDIO, 2, 1, bytes(240)))
            assert greedy.error() is ErrorCode.BUSY
            modest.send(opened, piece(1), encode(FrameType.COMMIT, 1, 2))
            assert modest.until(FrameType.FINAL)
            assert server.evidence()["io"]["buffered_bytes"] == 480
        _until(lambda: server.evidence()["io"]["buffered_bytes"] == 0)


def test_a_recording_is_in_the_budget_until_the_backend_has_done_with_it(io: str) -> None:
    """A client that sends and leaves, again and again, would otherwise fill the backend's queue."""
    with served(io, max_buffered_bytes=1000, cost={"per_request_s": 0.5}) as server:
        with ExitStack() as leaving:
            for _ in range(2):
                leaving.enter_context(Peer(server.address)).send(recording(1, bytes(240)))
            _until(lambda: server.evidence()["io"]["recordings"] == 2)
        with Peer(server.address) as stays:
            stays.send(recording(1, bytes(480)))
            assert stays.error() is ErrorCode.BUSY
        _until(lambda: server.evidence()["io"]["buffered_bytes"] == 0)


def test_one_client_too_many_is_turned_away(io: str) -> None:
    with served(io, max_connections=1) as server, Peer(server.address) as first:
        first.send(stream(1, bytes(320)))
        first.until(FrameType.FINAL)
        with Peer(server.address) as second:
            assert second.error() is ErrorCode.TOO_MANY_CONNECTIONS
        first.send(stream(1, bytes(320)))
        assert first.until(FrameType.FINAL)


def test_clients_wait_while_the_server_has_no_file_left(io: str) -> None:
    name, options = SERVERS[io]
    with ServerProcess(ServerPlan(ServiceSpec(RawFloats, engine), io=name, io_options=options)) as server:
        process = psutil.Process(server.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        with ExitStack() as stack:
            first = stack.enter_context(Peer(server.address))
            first.send(stream(1, bytes(320)))
            first.until(FrameType.FINAL)  # it serves: what it opens for itself is open
            process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 1, before[1]))
            peers = [stack.enter_context(Peer(server.address)) for _ in range(20)]
            for peer in peers:
                peer.send(stream(1, bytes(320)))
            assert peers[0].until(FrameType.FINAL)
            peers[-1].sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                peers[-1].receive()
            process.rlimit(psutil.RLIMIT_NOFILE, before)
            peers[-1].sock.settimeout(10.0)
            assert all(peer.until(FrameType.FINAL) for peer in peers[1:])
        errors = server.stop().evidence["io"]["errors"]
    assert [error for error in errors if error.startswith("accept_")]
    assert not [error for error in errors if error.startswith("internal_")]


# ---------------------------------------------------------------- time


def test_a_silent_client_is_told_and_closed(io: str) -> None:
    with served(io, idle_timeout_s=0.2) as server, Peer(server.address) as peer:
        assert peer.error() is ErrorCode.IDLE
        assert peer.closed()


def test_a_client_is_not_idle_while_the_server_owes_it_an_answer(io: str) -> None:
    with served(io, idle_timeout_s=0.1, cost={"per_request_s": 0.6}) as server, Peer(server.address) as peer:
        peer.send(recording(1, bytes(8)))
        frame = peer.receive()
        assert frame is not None
        assert frame.type == FrameType.FINAL


@pytest.mark.parametrize("sent", [5, 16, 40])
def test_a_frame_that_does_not_end_is_slow(io: str, sent: int) -> None:
    raw = encode(FrameType.AUDIO, 1, 1, bytes(1000))
    with served(io, slow_peer_timeout_s=0.2) as server, Peer(server.address) as peer:
        peer.send(encode_open(1, STREAM), raw[:sent])
        assert peer.error() is ErrorCode.SLOW_PEER
        assert peer.closed()


def test_a_client_that_does_not_read_is_closed_and_does_not_fill_the_memory(io: str) -> None:
    with served(io, slow_peer_timeout_s=0.5, high_water_bytes=4096) as server:
        with Peer(server.address) as deaf:
            deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.send(encode_open(1, STREAM))
            deaf.sock.settimeout(0.3)
            with pytest.raises(OSError):
                for k in range(1, 1_000_000):
                    deaf.send(encode(FrameType.AUDIO, 1, k))
            _until(lambda: server.evidence()["io"]["errors"].get("slow_peer") == 1)
        with Peer(server.address) as other:
            other.send(stream(1, bytes(320)))
            assert other.until(FrameType.FINAL)
        evidence = server.evidence()["io"]
    unread = evidence["frames_out"] * 16 - evidence["bytes_out"]
    assert unread < 200_000


# ---------------------------------------------------------------- a full backend


def test_a_busy_backend_slows_clients_down_and_loses_nothing(io: str) -> None:
    chunks = [np.full(160, k, "<i2").tobytes() for k in range(40)]
    with (
        served(io, topology={"max_pending": 3}, cost={"per_audio_s": 0.1}) as server,
        Peer(server.address) as one,
        Peer(server.address) as two,
        Peer(server.address) as vanishes,
    ):
        for peer in (one, two, vanishes):
            peer.send(stream(1, *chunks))
        vanishes.sock.close()
        for peer in (one, two):
            transcript = decode_final(peer.until(FrameType.FINAL).payload).transcript
            assert transcript is not None
            assert transcript.text == stream_text(*chunks)
        assert server.evidence()["io"]["busy"] > 0


def test_one_greedy_client_does_not_fill_the_backend(io: str) -> None:
    greedy, modest = [bytes(320)] * 300, [bytes(320)] * 3
    with (
        served(io, cost={"per_audio_s": 0.5}, max_jobs=4) as server,
        Peer(server.address) as one,
        Peer(server.address) as two,
    ):
        one.send(stream(1, *greedy))
        one.until(FrameType.PARTIAL)
        two.send(stream(1, *modest))
        two.until(FrameType.FINAL)
        one.sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # the greedy one is still being served
            one.until(FrameType.FINAL)
        one.sock.settimeout(10.0)
        transcript = decode_final(one.until(FrameType.FINAL).payload).transcript
    assert transcript is not None
    assert transcript.text == stream_text(*greedy)


# ---------------------------------------------------------------- going down


def test_a_drain_lets_open_sessions_finish_and_takes_no_new_ones(io: str) -> None:
    with served(io) as server, Peer(server.address) as busy, Peer(server.address) as unoccupied:
        busy.send(encode_open(1, STREAM), encode(FrameType.AUDIO, 1, 1, bytes(320)))
        busy.until(FrameType.PARTIAL)
        unoccupied.send(stream(1, bytes(320)))
        unoccupied.until(FrameType.FINAL)
        server.stop()
        assert unoccupied.until(FrameType.CLOSE).session == CONNECTION
        assert unoccupied.closed()
        busy.send(encode_open(2, STREAM))
        assert busy.error() is ErrorCode.DRAINING
        busy.send(encode(FrameType.COMMIT, 1, 2))
        assert busy.until(FrameType.FINAL).session == 1
        assert busy.closed()
        with pytest.raises(OSError):
            connect(server.address)


def test_a_drain_does_not_wait_for_ever(io: str) -> None:
    with served(io, drain_timeout_s=0.3) as server, Peer(server.address) as peer:
        peer.send(encode_open(1, STREAM), encode(FrameType.AUDIO, 1, 1, bytes(320)))
        peer.until(FrameType.PARTIAL)
        server.stop()
        assert peer.closed()


def test_sigterm_ends_the_process_in_order(io: str) -> None:
    name, options = SERVERS[io]
    plan = ServerPlan(ServiceSpec(RawFloats, engine), io=name, io_options=options)
    with ServerProcess(plan) as process:
        with Peer(process.address) as peer:
            peer.send(stream(1, bytes(320)))
            peer.until(FrameType.FINAL)
        evidence = process.stop().evidence
        assert not Path(process.address.path).parent.exists()
    assert evidence["io"]["streams"] == 1
    assert evidence["gc"]["policy"] == "default"


# ---------------------------------------------------------------- evidence


def test_evidence_counts_threads_and_connections(io: str) -> None:
    with served(io) as server:
        assert server.evidence()["io"]["not_engaged"] == "no client connected"
        peers = [Peer(server.address) for _ in range(5)]
        answered = 0
        for peer in peers:
            peer.send(stream(1, bytes(320)))
            answered += 2 * HEADER_BYTES + len(peer.until(FrameType.FINAL).payload)
        _until(lambda: server.evidence()["io"]["bytes_out"] == answered)  # counted once they are gone
        said = server.evidence()["io"]
        for peer in peers:
            peer.sock.close()
    assert "not_engaged" not in said
    assert said["connections"] == 5
    assert (said["io_threads"], said["connections_per_thread"]) == ((5, 1) if io == "threads" else (1, 5))
    assert said["bytes_in"] == 5 * len(stream(1, bytes(320)))


@pytest.mark.parametrize("io", ["uvloop", "asyncio"])
def test_evidence_names_the_loop_that_ran(io: str) -> None:
    with served(io) as server, Peer(server.address) as peer:
        peer.send(stream(1, bytes(320)))
        peer.until(FrameType.FINAL)
        said = server.evidence()["io"]
    assert said["loop"] == io
    assert said["loop_version"] == (version("uvloop") if io == "uvloop" else platform.python_version())
    assert 1 <= said["completion_wake_ups"] <= said["frames_in"]


# ---------------------------------------------------------------- the door


def test_only_the_owner_can_reach_the_socket(io: str) -> None:
    with served(io) as server:
        path = Path(server.address.path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_a_folder_that_others_can_enter_is_refused(io: str, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(UsageError, match="others can enter"), served(io, path=str(tmp_path / "open" / "s")):
        pass


@pytest.mark.parametrize(("mode", "fits"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_a_folder_that_anybody_can_replace_is_refused(io: str, tmp_path: Path, mode: int, fits: bool) -> None:
    (tmp_path / "shared" / "mine").mkdir(parents=True, mode=0o700)
    (tmp_path / "shared" / "mine").chmod(0o700)
    (tmp_path / "shared").chmod(mode)
    path = str(tmp_path / "shared" / "mine" / "s")
    refusal = contextlib.nullcontext() if fits else pytest.raises(UsageError, match="anybody may write to")
    with refusal, served(io, path=path):
        pass


def test_a_dead_server_s_socket_is_replaced_and_a_live_one_is_not(io: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    with served(io, path=path) as server:
        with Peer(server.address) as peer:
            peer.send(stream(1, bytes(320)))
            peer.until(FrameType.FINAL)
        with pytest.raises(UsageError, match="another server listens there"), served(io, path=path):
            pass


def test_only_loopback_is_listened_on(io: str) -> None:
    with pytest.raises(UsageError, match="only loopback"), served(io, transport="tcp", host="0.0.0.0"):
        pass


def test_more_connections_than_files_are_refused_with_the_limit() -> None:
    with pytest.raises(Exception, match=r"needs 1000000000 open files and the hard limit is \d+"):
        raise_open_files(1_000_000_000, "this test")


# ---------------------------------------------------------------- hostile clients


def well_behaved(address: Address, stop: threading.Event) -> list[str]:
    """One ordinary stream after the other until told to stop; what went wrong with them."""
    chunks = [np.arange(k, k + 320, dtype="<i2").tobytes() for k in range(8)]
    expected, wrong = stream_text(*chunks), []
    while not stop.is_set():
        with Peer(address) as peer:
            for _ in range(20):
                peer.send(stream(1, *chunks))
                transcript = decode_final(peer.until(FrameType.FINAL).payload).transcript
                if transcript is None or transcript.text != expected:
                    wrong.append(repr(transcript))
        time.sleep(0.005)
    return wrong


@pytest.mark.parametrize(
    ("io_kind", "count"),
    [
        ("epoll", 700),
        ("threads", 400),
        ("uvloop", 700),
        ("asyncio", 400),
        pytest.param("epoll", 10_000, marks=pytest.mark.slow),
        pytest.param("threads", 10_000, marks=pytest.mark.slow),
        pytest.param("uvloop", 10_000, marks=pytest.mark.slow),
    ],
)
def test_hostile_streams_are_answered_or_closed_and_harm_nobody(io_kind: str, count: int) -> None:
    limit = 50_000
    name, own = SERVERS[io_kind]
    options = {
        **own,
        "max_frame_bytes": limit,
        "max_session_bytes": 4 * limit,
        "slow_peer_timeout_s": 0.5,
        "idle_timeout_s": 3.0,  # a slow loris that stops between two frames is merely silent
    }
    plan = ServerPlan(ServiceSpec(RawFloats, engine), io=name, io_options=options)
    with ServerProcess(plan) as server, ThreadPoolExecutor(33) as pool:
        stop = threading.Event()
        good = pool.submit(well_behaved, server.address, stop)
        process = psutil.Process(server.pid)

        def attack_all(attempts: int, seed: int) -> Counter[tuple[str, str]]:
            carry = partial(carry_out, address=server.address, deadline_s=20.0)
            batch = list(attacks(attempts, seed, limit))
            return Counter(zip((a.kind for a in batch), pool.map(carry, batch), strict=True))

        attack_all(count // 2, seed=1)
        before = process.memory_info().rss
        outcomes = attack_all(count // 2, seed=2)
        after = process.memory_info().rss
        stop.set()
        wrong = good.result()
        assert server.alive
        ended = server.stop().evidence["io"]
    assert not {kind for kind, outcome in outcomes if outcome == "unanswered"}
    assert len({kind for kind, _ in outcomes}) == 16
    assert not wrong
    assert after - before < 8 << 20, f"{(after - before) >> 20} MiB more after as many attacks again"
    assert ended["buffered_bytes"] == 0
    assert not [error for error in ended["errors"] if error.startswith("internal_")]
    assert not Path(server.address.path).exists()
