"""Slots of memory that two processes map and one of them writes.

The memory is a memfd: it has no name, so nothing can be left behind in ``/dev/shm`` or anywhere
else; the kernel frees it when the last process that maps it is gone, however it went. It is sealed
against resizing, so that no reader can be hit by SIGBUS, and against any further writable mapping,
so that there is one writer by decree of the kernel.

Layout: one 64-bit stamp per slot, then the slots. A payload takes as many consecutive slots as it
needs; the stamp of its first slot is the sequence number of the message that it belongs to, and 0
while it is being written. A reader that finds another stamp than its descriptor says has read torn
memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np

from variants.ipc.types import PayloadTooLargeError

_STAMP_BYTES = 8
# linux/fcntl.h, since 5.1; the standard library names it from 3.13 on
_F_SEAL_FUTURE_WRITE = 0x0010


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a segment is divided. Both sizes are multiples of the page."""

    capacity_bytes: int
    slot_bytes: int

    @property
    def slots(self) -> int:
        return self.capacity_bytes // self.slot_bytes

    @property
    def stamps_bytes(self) -> int:
        return -(-self.slots * _STAMP_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def total_bytes(self) -> int:
        return self.stamps_bytes + self.slots * self.slot_bytes


class Segment:
    """A mapped memfd. ``identity`` is the same in every process that maps it."""

    def __init__(self, fd: int, identity: int, geometry: Geometry, writable: bool) -> None:
        self.fd = fd
        self.identity = identity
        self.geometry = geometry
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(fd, geometry.total_bytes, mmap.MAP_SHARED, access)
        self.bytes = np.frombuffer(self._map, np.uint8)
        self.stamps = self.bytes[: geometry.slots * _STAMP_BYTES].view(np.uint64)
        self.base: int = self.bytes.__array_interface__["data"][0] + geometry.stamps_bytes
        self.end = self.base + geometry.slots * geometry.slot_bytes

    @classmethod
    def create(cls, geometry: Geometry) -> Segment:
        fd = os.memfd_create("ssb-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, geometry.total_bytes)
        segment = cls(fd, secrets.randbits(63), geometry, writable=True)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return segment

    def contains(self, address: int, nbytes: int) -> bool:
        return self.base <= address and address + nbytes <= self.end

    def memory(self, slot: int, offset: int, nbytes: int) -> np.ndarray:
        """uint8 ``[nbytes]`` at ``offset`` bytes from the beginning of ``slot``."""
        start = self.geometry.stamps_bytes + slot * self.geometry.slot_bytes + offset
        return self.bytes[start : start + nbytes]

    def __del__(self) -> None:
        # The mapping itself lives as long as any array that points into it.
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd != -1:
            os.close(fd)


@dataclass(slots=True)
class Run:
    """Consecutive slots of one payload, from the writer's point of view."""

    first: int
    count: int
    sent: bool = False


class SlotTable:
    """The writer's book of which slots are in use.

    The lowest free place is taken first: the slots in use stay few, hot in the cache, and memory
    that was never needed is never touched.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._runs: list[Run] = []  # by first slot

    @property
    def runs(self) -> list[Run]:
        return self._runs

    def slots_for(self, nbytes: int) -> int:
        """Slots that ``nbytes`` take; raises ``PayloadTooLargeError`` where the segment has fewer."""
        geometry = self._segment.geometry
        count = max(1, -(-nbytes // geometry.slot_bytes))
        if count > geometry.slots:
            raise PayloadTooLargeError(
                f"a payload of {nbytes} bytes does not fit a segment of {geometry.capacity_bytes} bytes; "
                f"raise ipc.options.capacity_mb to at least {-(-nbytes >> 20) + 1}"
            )
        return count

    def take(self, count: int) -> Run | None:
        """``count`` consecutive free slots, stamped as being written; None where there are none now."""
        start = 0
        for index, run in enumerate(self._runs):
            if run.first - start >= count:
                return self._insert(index, start, count)
            start = run.first + run.count
        if self._segment.geometry.slots - start >= count:
            return self._insert(len(self._runs), start, count)
        return None

    def free(self, run: Run) -> None:
        self._segment.stamps[run.first] = 0
        self._runs.remove(run)

    def run_at(self, address: int) -> Run:
        """The run that an address of this segment lies in."""
        slot = (address - self._segment.base) // self._segment.geometry.slot_bytes
        for run in self._runs:
            if run.first <= slot < run.first + run.count:
                return run
        raise ValueError("memory of a slot was sent after it had been given back")

    def _insert(self, index: int, first: int, count: int) -> Run:
        run = Run(first, count)
        self._runs.insert(index, run)
        self._segment.stamps[first] = 0
        return run


def array_over(memory: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """``memory`` (uint8) seen as an array."""
    seen: np.ndarray = memory.view(dtype).reshape(shape)
    return seen
