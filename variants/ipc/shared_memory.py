"""Payloads stay where they were written; only descriptors travel.

Each sender owns a ring of slots (``segment.py``) with exactly one writer, itself, and one reader, the
receiver it is connected to, to which it hands the memfd over the connection. A message on the
sequenced-packet socket carries, per array, a descriptor ``(segment, slot, offset, bytes, stamp)``; shapes
and dtypes are in the metadata beside it. The reader answers with the message's sequence number when it
has done with the memory.

A payload is copied nowhere if its producer wrote it into ``allocate``d memory, or if it lies in memory
that was itself received (``holding``): then its descriptor is forwarded, together with the foreign
segment's memfd, and the lease on it is kept until the next reader releases it. Everything else is
copied once, into a slot, and counted.

Death of either side: packets are whole or absent, so no half descriptor is ever read. A dead writer's
message that was not sent does not exist; what was sent stays mapped until its reader releases it. A
dead reader's writer abandons the segment and gives the next reader a fresh one, so that no slot is ever
reused under a reader, and none can stay stuck. The memfd has no name: nothing outlives the processes.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import select
import socket
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from harness.errors import UsageError
from harness.protocols.options import Count, Positive
from harness.spans import now_ns
from variants.ipc.attention import Found
from variants.ipc.segment import Geometry, Run, Segment, SlotTable, array_over
from variants.ipc.serialize import Packed, address_of, pack, unpack
from variants.ipc.types import (
    Connecting,
    Lease,
    PayloadTooLargeError,
    PeerGoneError,
    Times,
    TornReadError,
    Traffic,
)
from variants.ipc.unix import UnixReceiver, connect


@dataclass(frozen=True)
class Options(Connecting):
    capacity_mb: Positive = 1024
    """Address space of a sender's slots; memory is used as far as it is touched. An hour is 230 MB."""
    slot_kb: Positive = 64
    """Granularity; a payload takes as many consecutive slots as it needs."""
    inline_bytes: Count = 16384
    """Of a message, as much travels in the packet itself (a chunk of a live stream)."""

    def __post_init__(self) -> None:
        if self.slot_kb % (mmap.PAGESIZE >> 10) or self.slot_kb > self.capacity_mb << 10:
            raise UsageError(
                f"ipc.options.slot_kb={self.slot_kb} has to be a multiple of {mmap.PAGESIZE >> 10} "
                f"and fit ipc.options.capacity_mb={self.capacity_mb}"
            )


_SEGMENT, _FORGET, _MESSAGE = 1, 2, 3
_SEGMENT_PACKET = struct.Struct("<BQQQ")  # kind, identity, capacity, slot bytes; the memfd rides along
_FORGET_PACKET = struct.Struct("<BQ")  # kind, identity
# kind, sequence, sent_ns, posted_ns, number of descriptors, metadata bytes, slot of the body or _INLINE
_MESSAGE_PACKET = struct.Struct("<BQQQIII")
_DESCRIPTOR = struct.Struct("<QIQQQ")  # segment, slot, offset, bytes, stamp
_RELEASE_PACKET = struct.Struct("<Q")  # sequence
_INLINE = 0xFFFFFFFF
_MAX_PACKET = 64 << 10  # well under the default socket buffer; a longer body goes into a slot
_ARENA_BYTES = 1 << 20
_ALIGNMENT = 64  # bytes, a cache line, between arrays that share a run of slots


def build(options: Options) -> SharedMemory:
    slot_bytes, capacity_bytes = options.slot_kb << 10, options.capacity_mb << 20
    geometry = Geometry(capacity_bytes // slot_bytes * slot_bytes, slot_bytes)
    return SharedMemory(geometry, options.inline_bytes, options.connect_timeout_s)


@dataclass(frozen=True)
class SharedMemory:
    """Up to ``inline_bytes`` of a message travel in the packet, where a copy costs less than a slot: a
    live stream's chunks, above all."""

    geometry: Geometry
    inline_bytes: int
    connect_timeout_s: float
    name: str = "shared_memory"

    def sender(self, address: str) -> SharedSender:
        return SharedSender(self, address)

    def receiver(self, address: str) -> UnixReceiver:
        return UnixReceiver(address, socket.SOCK_SEQPACKET, SharedConnection)

    def not_engaged(self, sent: Traffic) -> str | None:
        if sent.shared_bytes:
            return None
        return f"no payload went through shared memory ({sent.messages} messages, all of them inline)"


class Part(NamedTuple):
    """Where one array of a message lies, and the stamp that its memory has to carry."""

    segment: Segment
    slot: int
    offset: int
    nbytes: int
    stamp: int

    def view(self) -> np.ndarray:
        return self.segment.memory(self.slot, self.offset, self.nbytes)

    @property
    def address(self) -> int:
        return self.segment.base + self.slot * self.segment.geometry.slot_bytes + self.offset

    def contains(self, address: int, nbytes: int) -> bool:
        return self.address <= address and address + nbytes <= self.address + self.nbytes

    def check(self) -> None:
        found = int(self.segment.stamps[self.slot])
        if found != self.stamp:
            raise TornReadError(f"slot {self.slot} was to hold message {self.stamp} and holds {found}")

    def pack(self) -> bytes:
        return _DESCRIPTOR.pack(self.segment.identity, self.slot, self.offset, self.nbytes, self.stamp)


def _is_lent(segment: Segment, lent: Sequence[Part], address: int, nbytes: int) -> bool:
    return segment.contains(address, nbytes) or any(part.contains(address, nbytes) for part in lent)


# ---------------------------------------------------------------- the writing side


@dataclass(slots=True)
class _Flight:
    """What a message that was sent keeps occupied until its reader releases it."""

    runs: list[Run] = field(default_factory=list)
    holding: Lease | None = None


@dataclass(slots=True)
class _Link:
    """One connection with its segment; both end together."""

    socket: socket.socket
    segment: Segment
    table: SlotTable
    sequence: int = 0
    flights: dict[int, _Flight] = field(default_factory=dict)
    introduced: dict[int, weakref.ref[Segment]] = field(default_factory=dict)
    """Foreign segments that the reader has been given."""
    arena: np.ndarray | None = None
    arena_used: int = 0
    unsent: bool = False
    """Whether slots may be in use that no message has carried."""
    readable: select.poll = field(default_factory=select.poll)


class SharedSender:
    def __init__(self, transport: SharedMemory, address: str) -> None:
        self._transport = transport
        self._address = address
        self._link: _Link | None = None
        self._connections = 0
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes == 0:
            return np.empty(shape, dtype)
        try:
            self.collect()
            link = self._connected()
            memory = self._carve(link, nbytes)
        except PeerGoneError:
            self._break()
            raise
        return array_over(memory, shape, dtype)

    def reserve(self, nbytes: int) -> np.ndarray:
        return self.allocate((nbytes,), np.uint8)

    def discard(self) -> None:
        link = self._link
        if link is not None and link.unsent:
            link.arena, link.unsent = None, False
            for run in [run for run in link.table.runs if not run.sent]:
                link.table.free(run)

    def send(self, value: Any, holding: Lease | None = None) -> None:
        sent_ns = now_ns()
        forwarded = False
        try:
            self.collect()  # a peer that died since the last message is replaced, not reported
            link = self._connected()
            lent = holding.parts if isinstance(holding, SharedLease) else ()
            packed = pack(value, self._transport.inline_bytes, partial(_is_lent, link.segment, lent))
            flight = _Flight()
            parts = self._place(link, packed.buffers, lent, flight)
            forwarded = any(part.segment is not link.segment for part in parts)
            if forwarded:
                flight.holding = holding
                self._introduce(link, parts)
            self._post_message(link, packed, parts, flight, sent_ns)
        except BaseException as error:
            forwarded = False
            if isinstance(error, PeerGoneError):
                self._break()
            raise
        finally:
            self.discard()
            if holding is not None and not forwarded:
                holding.release()

    @property
    def connections(self) -> int:
        return self._connections

    def fileno(self) -> int:
        return -1 if self._link is None else self._link.socket.fileno()

    def collect(self) -> None:
        if self._link is None:
            return
        try:
            self._take_releases(self._link)
        except PeerGoneError:
            self._break()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        link.socket.close()
        for flight in link.flights.values():
            if flight.holding is not None:
                flight.holding.release()

    def _break(self) -> None:
        self._traffic.broken_links += self._link is not None
        self.close()

    def _connected(self) -> _Link:
        if self._link is None:
            sock = connect(self._address, socket.SOCK_SEQPACKET, self._transport.connect_timeout_s)
            sock.setblocking(False)
            segment = Segment.create(self._transport.geometry)
            self._link = _Link(sock, segment, SlotTable(segment))
            self._link.readable.register(sock, select.POLLIN)
            self._connections += 1
            self._give_segment(self._link, segment)
        return self._link

    def _take(self, link: _Link, nbytes: int) -> Run:
        """Slots for ``nbytes``, once the reader has released enough of them."""
        count = link.table.slots_for(nbytes)
        link.unsent = True
        while (run := link.table.take(count)) is None:
            if not link.flights:
                raise PayloadTooLargeError(
                    f"the parts of one message fill {self._transport.geometry.capacity_bytes} bytes; "
                    "raise ipc.options.capacity_mb"
                )
            _wait(link.socket, select.POLLIN)
            self._take_releases(link)
        return run

    def _carve(self, link: _Link, nbytes: int) -> np.ndarray:
        """Part of a run that small allocations share: thousands of segments are a few runs."""
        if link.arena is None or link.arena_used + nbytes > link.arena.nbytes:
            shared_bytes = min(_ARENA_BYTES, self._transport.geometry.capacity_bytes // 16)
            run = self._take(link, max(nbytes, shared_bytes))
            link.arena_used = 0
            link.arena = link.segment.memory(run.first, 0, run.count * self._transport.geometry.slot_bytes)
        memory = link.arena[link.arena_used : link.arena_used + nbytes]
        link.arena_used += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return memory

    def _place(
        self, link: _Link, buffers: Sequence[memoryview], lent: Sequence[Part], flight: _Flight
    ) -> list[Part]:
        """A part for each buffer, in order; copies into slots what lies in ordinary memory."""
        parts = [self._part_in_place(link, buffer, lent, flight) for buffer in buffers]
        homeless = [index for index, part in enumerate(parts) if part is None]
        if homeless:
            copies = self._copy_in(link, [buffers[index] for index in homeless], flight)
            for index, part in zip(homeless, copies, strict=True):
                parts[index] = part
        return [part for part in parts if part is not None]

    def _part_in_place(
        self, link: _Link, buffer: memoryview, lent: Sequence[Part], flight: _Flight
    ) -> Part | None:
        """Where ``buffer`` lies if that is memory which the reader can map; else None."""
        address, nbytes = address_of(buffer), buffer.nbytes
        segment = link.segment
        if segment.contains(address, nbytes):
            run = link.table.run_at(address)
            if run not in flight.runs:
                flight.runs.append(run)
            offset = address - segment.base - run.first * segment.geometry.slot_bytes
            return Part(segment, run.first, offset, nbytes, link.sequence + 1)
        for part in lent:
            if part.contains(address, nbytes):
                return part._replace(offset=part.offset + address - part.address, nbytes=nbytes)
        return None

    def _copy_in(self, link: _Link, buffers: Sequence[memoryview], flight: _Flight) -> list[Part]:
        """One run of slots for all of them, each at a cache line of its own."""
        strides = [-(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT for buffer in buffers]
        run = self._take(link, sum(strides))
        flight.runs.append(run)
        parts, offset = [], 0
        for buffer, stride in zip(buffers, strides, strict=True):
            part = Part(link.segment, run.first, offset, buffer.nbytes, link.sequence + 1)
            np.copyto(part.view(), np.frombuffer(buffer, np.uint8))
            self._traffic.copied_bytes["into_slot"] += buffer.nbytes
            parts.append(part)
            offset += stride
        return parts

    def _post_message(
        self, link: _Link, packed: Packed, parts: Sequence[Part], flight: _Flight, sent_ns: int
    ) -> None:
        sequence = link.sequence + 1
        body = b"".join([*(part.pack() for part in parts), packed.metadata])
        body_slot = _INLINE
        if len(body) > _MAX_PACKET - _MESSAGE_PACKET.size:
            run = self._take(link, len(body))
            flight.runs.append(run)
            link.segment.memory(run.first, 0, len(body))[:] = np.frombuffer(body, np.uint8)
            body_slot = run.first
        for run in flight.runs:
            link.segment.stamps[run.first] = sequence
            run.sent = True
        counts = (len(parts), len(packed.metadata), body_slot)
        head = _MESSAGE_PACKET.pack(_MESSAGE, sequence, sent_ns, now_ns(), *counts)
        self._post(link, head + body if body_slot == _INLINE else head)
        link.sequence = sequence
        if flight.runs or flight.holding is not None:
            link.flights[sequence] = flight
        self._count(packed, parts, len(body))

    def _count(self, packed: Packed, parts: Sequence[Part], body_bytes: int) -> None:
        traffic, shared = self._traffic, sum(part.nbytes for part in parts)
        traffic.messages += 1
        traffic.shared_bytes += shared
        traffic.payload_bytes += shared + packed.inline_bytes
        traffic.metadata_bytes += body_bytes - packed.inline_bytes
        for place, nbytes in (("inline", packed.inline_bytes), ("gathered", packed.gathered_bytes)):
            if nbytes:
                traffic.copied_bytes[place] += nbytes

    def _introduce(self, link: _Link, parts: Sequence[Part]) -> None:
        """Give the reader the foreign segments it has not seen, and let it forget dead ones."""
        for identity in [identity for identity, known in link.introduced.items() if known() is None]:
            del link.introduced[identity]
            self._post(link, _FORGET_PACKET.pack(_FORGET, identity))
        for part in parts:
            segment = part.segment
            if segment is not link.segment and segment.identity not in link.introduced:
                self._give_segment(link, segment)
                link.introduced[segment.identity] = weakref.ref(segment)

    def _give_segment(self, link: _Link, segment: Segment) -> None:
        geometry = segment.geometry
        packet = _SEGMENT_PACKET.pack(
            _SEGMENT, segment.identity, geometry.capacity_bytes, geometry.slot_bytes
        )
        self._post(link, packet, segment.fd)

    def _post(self, link: _Link, packet: bytes, fd: int | None = None) -> None:
        """Send one packet; takes releases while the socket is full, so that neither side waits for ever."""
        fds = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        while True:
            try:
                link.socket.sendmsg([packet], fds)
                return
            except BlockingIOError:
                _wait(link.socket, select.POLLIN | select.POLLOUT)
                self._take_releases(link)
            except OSError as error:
                raise PeerGoneError(f"the peer at {self._address} is gone: {error}") from error

    def _take_releases(self, link: _Link) -> None:
        while link.readable.poll(0):
            try:
                packet = link.socket.recv(_RELEASE_PACKET.size)
            except OSError as error:
                raise PeerGoneError(f"the peer at {self._address} is gone: {error}") from error
            if not packet:
                raise PeerGoneError(f"the peer at {self._address} closed the connection")
            flight = link.flights.pop(_RELEASE_PACKET.unpack(packet)[0])
            for run in flight.runs:
                link.table.free(run)
            if flight.holding is not None:
                flight.holding.release()


def _wait(sock: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(sock, events)
    poll.poll()


# ---------------------------------------------------------------- the reading side


class SharedLease:
    """A message whose arrays are read-only views of the sender's segment."""

    __slots__ = ("_connection", "_sequence", "parts", "times", "value")

    def __init__(
        self,
        value: Any,
        parts: tuple[Part, ...],
        times: Times,
        connection: SharedConnection,
        sequence: int,
    ) -> None:
        self.value = value
        self.parts = parts
        self.times = times
        # a message without memory of its own is not waited for by its sender
        self._connection = connection if parts else None
        self._sequence = sequence

    def release(self) -> None:
        """Raises ``TornReadError`` where the memory was overwritten while it was lent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.value = None
        try:
            for part in self.parts:
                part.check()
        finally:
            self.parts = ()
            connection.give_back(self._sequence)


class SharedConnection:
    def __init__(self, sock: socket.socket, traffic: Traffic) -> None:
        self._socket = sock
        self._traffic = traffic
        self._own: Segment | None = None
        self._segments: dict[int, Segment] = {}
        self._sequence = 0
        self._packet = bytearray(_MAX_PACKET)

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def read(self, found: Found) -> SharedLease | None:
        nbytes, fds = self._receive_packet()
        packet = memoryview(self._packet)[:nbytes]
        if packet[0] == _MESSAGE:
            return self._read_message(packet, found)
        if packet[0] == _SEGMENT:
            self._map(packet, fds)
        elif packet[0] == _FORGET:
            self._segments.pop(_FORGET_PACKET.unpack(packet)[1], None)
        return None

    def give_back(self, sequence: int) -> None:
        """Tell the writer; a writer that is gone needs no telling."""
        with contextlib.suppress(OSError):
            self._socket.sendall(_RELEASE_PACKET.pack(sequence))

    def close(self) -> None:
        self._socket.close()
        self._segments.clear()
        self._own = None

    def _receive_packet(self) -> tuple[int, list[int]]:
        try:
            nbytes, ancillary, _, _ = self._socket.recvmsg_into(
                [self._packet], socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise PeerGoneError(f"the peer is gone: {error}") from error
        if nbytes == 0:
            raise PeerGoneError("the peer closed the connection")
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return nbytes, list(fds)

    def _map(self, packet: memoryview, fds: Sequence[int]) -> None:
        _, identity, capacity_bytes, slot_bytes = _SEGMENT_PACKET.unpack(packet)
        if len(fds) != 1:
            raise PeerGoneError("the peer announced a segment without its memory")
        segment = Segment(fds[0], identity, Geometry(capacity_bytes, slot_bytes), writable=False)
        self._segments[identity] = segment
        if self._own is None:
            self._own = segment

    def _read_message(self, packet: memoryview, found: Found) -> SharedLease:
        head = _MESSAGE_PACKET.unpack_from(packet)
        _, sequence, sent_ns, posted_ns, count, metadata_bytes, body_slot = head
        own = self._own
        if own is None or sequence != self._sequence + 1:
            raise PeerGoneError(f"message {sequence} after message {self._sequence}: the link lost its order")
        self._sequence = sequence
        body: memoryview = packet[_MESSAGE_PACKET.size :]
        extra: tuple[Part, ...] = ()
        if body_slot != _INLINE:
            extra = (Part(own, body_slot, 0, count * _DESCRIPTOR.size + metadata_bytes, sequence),)
            body = extra[0].view().data
        table = body[: count * _DESCRIPTOR.size]
        parts = tuple(
            Part(self._segments[identity], slot, offset, nbytes, stamp)
            for identity, slot, offset, nbytes, stamp in _DESCRIPTOR.iter_unpack(table)
        )
        for part in parts + extra:
            part.check()
        value = unpack(body[count * _DESCRIPTOR.size :], [part.view() for part in parts])
        shared = sum(part.nbytes for part in parts)
        self._traffic.messages += 1
        self._traffic.payload_bytes += shared
        self._traffic.shared_bytes += shared
        self._traffic.metadata_bytes += len(body)
        times = Times(sent_ns, posted_ns, found.ready_ns, found.found_ns, now_ns(), found.core_wait_ns)
        return SharedLease(value, parts + extra, times, self, sequence)
