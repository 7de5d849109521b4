"""ZeroMQ PUSH/PULL with serialized messages: the way that Python services are usually wired.

A message is pickled whole into one byte string, handed to ZeroMQ, which copies it, written to a Unix
socket by ZeroMQ's own thread, read from it by the peer's, copied out and unpickled. Every one of
those copies is counted.
"""

from __future__ import annotations

import contextlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from harness.protocols.options import Positive
from harness.spans import now_ns
from variants.ipc.types import Connecting, Lease, PeerGoneError, Sender, Traffic


@dataclass(frozen=True)
class Options(Connecting):
    high_water_messages: Positive = 1000
    """Messages that may wait in each direction of a link."""


def build(options: Options) -> ZeroMq:
    return ZeroMq(options.high_water_messages, options.connect_timeout_s)


@dataclass(frozen=True)
class ZeroMq:
    """Transport over ``ipc://``."""

    high_water_messages: int
    connect_timeout_s: float
    name: str = "zeromq"

    def sender(self, address: str) -> ZeroMqSender:
        return ZeroMqSender(self, address)

    def receiver(self, address: str) -> ZeroMqReceiver:
        return ZeroMqReceiver(self, address)

    def not_engaged(self, sent: Traffic) -> str | None:
        return None if sent.messages else "no message was sent"


class CopiedLease:
    """A message in private memory: nothing to give back."""

    __slots__ = ("ready_ns", "received_ns", "sent_ns", "value")

    def __init__(self, value: Any, sent_ns: int, ready_ns: int, received_ns: int) -> None:
        self.value = value
        self.sent_ns = sent_ns
        self.ready_ns = ready_ns
        self.received_ns = received_ns

    def release(self) -> None:
        self.value = None


class ZeroMqSender:
    def __init__(self, transport: ZeroMq, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, transport.high_water_messages)
        # Without a connected peer a message would wait in a queue of its own for whoever comes next.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.setsockopt(zmq.SNDTIMEO, int(transport.connect_timeout_s * 1000))
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
        self._connected = False
        self._socket.connect(f"ipc://{address}")
        self._address = address
        self._timeout_s = transport.connect_timeout_s
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def reserve(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def discard(self) -> None:
        """Nothing is held: allocated memory is the caller's own."""

    def send(self, value: Any, holding: Lease | None = None, since_ns: int | None = None) -> None:
        try:
            message = pickle.dumps((since_ns or now_ns(), value), protocol=pickle.HIGHEST_PROTOCOL)
        finally:
            if holding is not None:
                holding.release()
        while not self._sent(message):
            if not self._has_peer():
                self._traffic.broken_links += 1
                raise PeerGoneError(f"nobody took a message at {self._address} in {self._timeout_s} s")
        self._traffic.messages += 1
        self._traffic.payload_bytes += len(message)
        for place in ("serialize", "into_zeromq", "socket_send"):
            self._traffic.copied_bytes[place] += len(message)

    def _sent(self, message: bytes) -> bool:
        try:
            self._socket.send(message)
        except zmq.Again:
            return False
        return True

    def _has_peer(self) -> bool:
        """Whether what took too long was a peer that is behind, and not one that is not there."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            self._connected = event["event"] == zmq.EVENT_CONNECTED
        return self._connected

    def fileno(self) -> int:
        return -1

    @property
    def connections(self) -> int:
        return 0

    def collect(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()


class ZeroMqReceiver:
    def __init__(self, transport: ZeroMq, address: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(address).unlink()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, transport.high_water_messages)
        self._socket.bind(f"ipc://{address}")
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def watch(self, sender: Sender) -> None:
        """Senders of this transport have nothing to collect."""

    def receive(self, timeout_s: float | None = None) -> CopiedLease | None:
        ready_ns = now_ns()
        wait_ms = None if timeout_s is None else max(0, round(timeout_s * 1000))
        if not self._socket.poll(wait_ms):
            return None
        message = self._socket.recv()
        sent_ns, value = pickle.loads(message)
        self._traffic.messages += 1
        self._traffic.payload_bytes += len(message)
        for place in ("socket_receive", "out_of_zeromq", "deserialize"):
            self._traffic.copied_bytes[place] += len(message)
        return CopiedLease(value, sent_ns, ready_ns, now_ns())

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()
