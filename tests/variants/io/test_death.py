"""The inference process is killed while live clients stream through a server."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.protocols.wire import ErrorCode, FrameType, decode_error, decode_final, encode, encode_open
from tests.variants.io.peers import SERVERS, STREAM, Peer, recording, stream
from tests.variants.topology import parts
from variants import registry
from variants.io.types import Server
from variants.topology.types import Backend

CLIENTS = 30


@contextmanager
def served(io: str) -> Iterator[tuple[Server, Backend]]:
    backend = parts.build("collapsed", "shared_memory")
    backend.start()
    name, options = SERVERS[io]
    server: Server = registry.make("io", name, options, backend)
    server.bind()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server, backend
    finally:
        server.stop()
        thread.join(20.0)
        backend.close()
        server.close()


def inference_pid(backend: Backend) -> int:
    workers = backend.evidence()["topology"]["workers"]
    return int(next(worker["pid"] for worker in workers if worker["name"] == "inference"))


@pytest.mark.parametrize("io", SERVERS)
def test_clients_get_errors_within_a_second_and_service_resumes(io: str) -> None:
    with served(io) as (server, backend), ExitStack() as stack:
        peers = [stack.enter_context(Peer(server.address)) for _ in range(CLIENTS)]
        for peer in peers:
            peer.send(encode_open(1, STREAM), encode(FrameType.AUDIO, 1, 1, bytes(3200)))
            assert peer.until(FrameType.PARTIAL).sequence == 1
        os.kill(inference_pid(backend), signal.SIGKILL)
        killed_s = time.monotonic()
        for peer in peers:  # live clients go on speaking: what they send is what fails
            peer.send(encode(FrameType.AUDIO, 1, 2, bytes(3200)))
        for peer in peers:
            assert peer.error() is ErrorCode.FAILED
        assert time.monotonic() - killed_s < 5.0

        assert _served_again(peers[0], stream(2, bytes(3200)))
        assert _served_again(peers[1], recording(2, parts.recording(1.0)))
        deaths = backend.evidence()["topology"]["supervisor"]["deaths"]
        assert [death["name"] for death in deaths] == ["inference"]
        assert server.evidence()["io"]["errors"]["failed"] >= CLIENTS


def _served_again(peer: Peer, request: bytes, timeout_s: float = 20.0) -> bool:
    """Ask on the same connection until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        peer.send(request)
        frame = peer.receive()
        while frame is not None and frame.type == FrameType.PARTIAL:
            frame = peer.receive()
        assert frame is not None, "the connection should outlive the death"
        if frame.type == FrameType.FINAL:
            return decode_final(frame.payload).transcript is not None
        code, message = decode_error(frame.payload)
        assert code in (ErrorCode.FAILED, ErrorCode.UNAVAILABLE, ErrorCode.BAD_SESSION), message
        time.sleep(0.02)
    return False
