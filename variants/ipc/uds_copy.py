"""Length-prefixed frames over a persistent Unix stream socket: no serialization of the payload, but
the kernel copies it in and out, and the reader needs memory for it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.spans import now_ns
from variants.ipc.attention import Found
from variants.ipc.serialize import pack, unpack
from variants.ipc.types import Connecting, Lease, PeerGoneError, Times, Traffic
from variants.ipc.unix import UnixReceiver, connect
from variants.ipc.zeromq import CopiedLease

Options = Connecting

# magic, metadata bytes, number of buffers, sent_ns, posted_ns; then a length per buffer, metadata, buffers
_HEADER = struct.Struct("<4sIIQQ")
_MAGIC = b"SSB1"
_LENGTH = struct.Struct("<Q")
_MAX_PARTS = 512  # of one sendmsg; the kernel takes 1024


def build(options: Options) -> UdsCopy:
    return UdsCopy(options.connect_timeout_s)


@dataclass(frozen=True)
class UdsCopy:
    connect_timeout_s: float
    name: str = "uds_copy"

    def sender(self, address: str) -> UdsSender:
        return UdsSender(address, self.connect_timeout_s)

    def receiver(self, address: str) -> UnixReceiver:
        return UnixReceiver(address, socket.SOCK_STREAM, UdsConnection)

    def not_engaged(self, sent: Traffic) -> str | None:
        return None if sent.messages else "no message was sent"


class UdsSender:
    def __init__(self, address: str, connect_timeout_s: float) -> None:
        self._address = address
        self._timeout_s = connect_timeout_s
        self._socket: socket.socket | None = None
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
            packed = pack(value)
            lengths = [buffer.nbytes for buffer in packed.buffers]
            header = _HEADER.pack(_MAGIC, len(packed.metadata), len(lengths), sent_ns, now_ns())
            table = b"".join(map(_LENGTH.pack, lengths))
            self._write([header + table + packed.metadata, *packed.buffers])
        finally:
            if holding is not None:
                holding.release()
        traffic, payload = self._traffic, sum(lengths)
        traffic.messages += 1
        traffic.payload_bytes += payload + packed.inline_bytes
        traffic.metadata_bytes += len(header) + len(table) + len(packed.metadata)
        traffic.copied_bytes["socket_send"] += payload
        if packed.gathered_bytes:
            traffic.copied_bytes["gathered"] += packed.gathered_bytes

    def fileno(self) -> int:
        return -1

    @property
    def connections(self) -> int:
        return 0

    def collect(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        if self._socket is not None and _hung_up(self._socket):
            self._traffic.broken_links += 1
            self.close()  # a peer that died since the last message is replaced, not reported
        if self._socket is None:
            self._socket = connect(self._address, socket.SOCK_STREAM, self._timeout_s)
        try:
            _send_all(self._socket, [memoryview(part).cast("B") for part in parts])
        except OSError as error:
            self.close()
            self._traffic.broken_links += 1
            raise PeerGoneError(f"the peer at {self._address} is gone: {error}") from error


def _hung_up(sock: socket.socket) -> bool:
    """Whether the reader, which never writes, has closed its end: that alone makes it readable."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _send_all(sock: socket.socket, parts: list[memoryview]) -> None:
    """Gathering write of everything, however little the kernel takes at a time."""
    first = 0
    while first < len(parts):
        sent = sock.sendmsg(parts[first : first + _MAX_PARTS])
        while first < len(parts) and sent >= parts[first].nbytes:
            sent -= parts[first].nbytes
            first += 1
        if sent:
            parts[first] = parts[first][sent:]


class UdsConnection:
    def __init__(self, sock: socket.socket, traffic: Traffic) -> None:
        self._socket = sock
        self._traffic = traffic

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def read(self, found: Found) -> CopiedLease:
        magic, metadata_bytes, count, sent_ns, posted_ns = _HEADER.unpack(self._exactly(_HEADER.size))
        if magic != _MAGIC:
            raise PeerGoneError("the peer does not speak this protocol")
        table = self._exactly(count * _LENGTH.size)
        metadata = self._exactly(metadata_bytes)
        buffers = [self._exactly(length) for (length,) in _LENGTH.iter_unpack(table)]
        value = unpack(metadata, buffers)
        payload = sum(buffer.nbytes for buffer in buffers)
        self._traffic.messages += 1
        self._traffic.payload_bytes += payload
        self._traffic.metadata_bytes += _HEADER.size + table.nbytes + metadata.nbytes
        self._traffic.copied_bytes["socket_receive"] += payload
        times = Times(sent_ns, posted_ns, found.ready_ns, found.found_ns, now_ns(), found.core_wait_ns)
        return CopiedLease(value, times)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _exactly(self, nbytes: int) -> memoryview:
        """``nbytes`` from the socket in memory of their own (not zeroed first: it is overwritten)."""
        memory = np.empty(nbytes, np.uint8).data
        done = 0
        while done < nbytes:
            try:
                got = self._socket.recv_into(memory[done:])
            except OSError as error:
                raise PeerGoneError(f"the peer is gone: {error}") from error
            if got == 0:
                raise PeerGoneError("the peer closed the connection")
            done += got
        return memory
