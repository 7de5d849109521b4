"""ZeroMQ PUSH/PULL with serialized messages: the way that Python services are usually wired.

A message is pickled whole into one byte string, handed to ZeroMQ, which copies it, written to a Unix
socket by ZeroMQ's own thread, read from it by the peer's, copied out and unpickled. Every one of
those copies is counted. What these threads do between ``send`` and the end of ``poll`` is sending and
receiving too, and part of the message's time in ``ipc``: nobody can tell it from their waiting.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from harness.protocols.options import Positive
from harness.spans import now_ns
from variants.ipc.attention import Attention
from variants.ipc.types import Connecting, Lease, PeerGoneError, Sender, Times, Traffic

_STAMPS = struct.Struct("<QQ")  # sent_ns, posted_ns


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

    __slots__ = ("times", "value")

    def __init__(self, value: Any, times: Times) -> None:
        self.value = value
        self.times = times

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

    def send(self, value: Any, holding: Lease | None = None) -> None:
        sent_ns = now_ns()
        try:
            message = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        finally:
            if holding is not None:
                holding.release()
        frame = zmq.Frame(message, copy=True)
        while not self._sent(_STAMPS.pack(sent_ns, now_ns()), frame):
            if not self._has_peer():
                self._traffic.broken_links += 1
                raise PeerGoneError(f"nobody took a message at {self._address} in {self._timeout_s} s")
        self._traffic.messages += 1
        self._traffic.payload_bytes += len(message)
        for place in ("serialize", "into_zeromq", "socket_send"):
            self._traffic.copied_bytes[place] += len(message)

    def _sent(self, stamps: bytes, message: zmq.Frame) -> bool:
        """Both parts arrive or neither does; ``message`` is handed over as it is."""
        try:
            self._socket.send_multipart((stamps, message), copy=False)
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
        self._attention = Attention()
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def watch(self, sender: Sender) -> None:
        """Senders of this transport have nothing to collect."""

    def receive(self, timeout_s: float | None = None) -> CopiedLease | None:
        self._attention.turn()
        if not self._socket.poll(None if timeout_s is None else max(0, round(timeout_s * 1000))):
            return None
        found = self._attention.find()
        stamps, message = self._socket.recv_multipart()
        value = pickle.loads(message)
        self._attention.leave()
        self._traffic.messages += 1
        self._traffic.payload_bytes += len(message)
        for place in ("socket_receive", "out_of_zeromq", "deserialize"):
            self._traffic.copied_bytes[place] += len(message)
        sent_ns, posted_ns = _STAMPS.unpack(stamps)
        if found.ready_ns < posted_ns:  # it was waited for: until then ZeroMQ's threads moved it
            posted_ns = max(posted_ns, found.found_ns - found.core_wait_ns)
        times = Times(sent_ns, posted_ns, found.ready_ns, found.found_ns, now_ns(), found.core_wait_ns)
        return CopiedLease(value, times)

    def leave(self) -> None:
        self._attention.leave()

    def close(self) -> None:
        self._attention.close()
        self._socket.close(linger=0)
        self._context.term()
