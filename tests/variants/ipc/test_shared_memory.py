"""Zero copies, shown by addresses and counts; slots that come back; memory that cannot leak."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import shared_memory
from variants import registry
from variants.ipc.segment import Geometry, Segment
from variants.ipc.serialize import address_of
from variants.ipc.shared_memory import SharedLease
from variants.ipc.types import Lease, PayloadTooLargeError, Receiver, TornReadError, Transport

Address = Callable[[str], str]


def mappings() -> int:
    """Segments that this process maps."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:ssb-slots")


def lease_of(receiver: Receiver) -> Lease:
    lease = receiver.receive(5)
    assert lease is not None
    return lease


def test_what_is_written_into_a_slot_is_read_there(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    audio = sender.allocate((16_000,), np.float32)
    audio[:] = np.linspace(-1, 1, 16_000)
    sender.send(audio)
    lease = lease_of(receiver)
    assert isinstance(lease, SharedLease)
    segment = lease.parts[0].segment
    assert segment.contains(address_of(lease.value), lease.value.nbytes)
    audio[0] = 0.5  # the same memory: the reader's mapping shows the writer's store
    assert lease.value[0] == 0.5
    assert not lease.value.flags.writeable
    assert sender.traffic.copied_bytes.total() == receiver.traffic.copied_bytes.total() == 0
    sender.close(), receiver.close()


def test_ordinary_memory_is_copied_once_and_counted(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    sender.send(np.ones(100_000, np.uint8))
    lease_of(receiver).release()
    assert sender.traffic.copied_bytes == {"into_slot": 100_000}
    sender.close(), receiver.close()


def test_an_hour_of_audio_passes_without_a_copy(address: Address) -> None:
    link = registry.transport({"name": "shared_memory"})
    receiver, sender = link.receiver(address("a")), link.sender(address("a"))
    hour = sender.allocate((3600 * 16_000,), np.float32)
    hour[::4096] = 7
    sender.send(hour)
    lease = lease_of(receiver)
    assert lease.value.nbytes == 230_400_000 and (lease.value[::4096] == 7).all()
    assert sender.traffic.shared_bytes == 230_400_000
    assert sender.traffic.copied_bytes.total() == 0
    sender.close(), receiver.close()


def test_received_memory_is_forwarded_and_not_copied(shared: Transport, address: Address) -> None:
    receivers = [shared.receiver(address(name)) for name in "abc"]
    senders = [shared.sender(address(name)) for name in "abc"]
    audio = senders[0].allocate((50_000,), np.float32)
    audio[:] = np.arange(50_000)
    senders[0].send(audio)
    first = lease_of(receivers[0])
    senders[1].send([first.value[10_000:20_000], first.value[30_000:]], holding=first)
    second = lease_of(receivers[1])
    senders[2].send(second.value[1][:10_000], holding=second)
    third = lease_of(receivers[2])
    np.testing.assert_array_equal(third.value, np.arange(30_000, 40_000))
    assert all(end.traffic.copied_bytes.total() == 0 for end in (*senders, *receivers))
    assert senders[2].traffic.shared_bytes == 40_000

    third.release()  # goes back through every hand that it came through
    for sender in reversed(senders):
        sender.collect()
    filled = [senders[0].reserve(8 << 20)]  # the whole segment: nothing is in use any more
    assert filled[0].nbytes == 8 << 20
    for end in (*senders, *receivers):
        end.close()


def test_slots_come_back_when_they_are_released(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    for number in range(100):  # 300 MB through 8 MB
        sender.send((number, np.full(3 << 20, number, np.uint8)))
        lease = lease_of(receiver)
        assert lease.value[0] == number and (lease.value[1] == number).all()
        lease.release()
        lease.release()  # once is enough
    sender.close(), receiver.close()


def test_what_was_never_sent_can_be_discarded(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    for _ in range(10):
        sender.reserve(8 << 20)
        sender.discard()
    sender.send(np.ones(1 << 20, np.uint8))
    assert lease_of(receiver).value.all()
    sender.close(), receiver.close()


def test_a_payload_that_can_never_fit_names_the_remedy(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    with pytest.raises(PayloadTooLargeError, match=r"raise ipc.options.capacity_mb to at least 10"):
        sender.send(np.ones(9 << 20, np.uint8))
    sender.send("still of use")
    assert lease_of(receiver).value == "still of use"
    sender.close(), receiver.close()


def test_a_long_list_travels_too(shared: Transport, address: Address) -> None:
    """Thousands of segments: their descriptors fill more than a packet."""
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    arrays = [np.full(300, number, np.float32) for number in range(3000)]
    sender.send(arrays)
    lease = lease_of(receiver)
    assert all((got == number).all() for number, got in enumerate(lease.value))
    lease.release()
    sender.reserve(8 << 20)
    sender.close(), receiver.close()


def test_overwriting_lent_memory_is_found_out(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    written = sender.reserve(100_000)
    sender.send(written)
    lease = lease_of(receiver)
    sender._link.segment.stamps[0] = 99  # type: ignore[attr-defined]  # a writer that breaks the protocol
    with pytest.raises(TornReadError, match="slot 0 was to hold message 1 and holds 99"):
        lease.release()
    sender.close(), receiver.close()


def test_only_the_writer_can_write() -> None:
    segment = Segment.create(Geometry(1 << 20, 1 << 16))
    with pytest.raises(PermissionError):
        mmap.mmap(segment.fd, segment.geometry.total_bytes, mmap.MAP_SHARED, mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 0)


def test_memory_goes_with_its_last_user(shared: Transport, address: Address) -> None:
    before, names = mappings(), shared_memory.names()
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    sender.send(np.ones(100_000, np.uint8))
    lease = lease_of(receiver)
    kept = lease.value
    sender.close(), receiver.close()
    assert kept.all()  # still there for whoever reads it
    lease.release()
    del kept, lease, sender, receiver
    assert mappings() == before
    assert not shared_memory.left_since(names)


def test_gaps_are_shared_and_not_gathered(shared: Transport, address: Address) -> None:
    """Two channels decoded into more room than they needed: no array of them is contiguous."""
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    stereo = sender.allocate((2, 50_000), np.float32)[:, :40_000]
    stereo[:] = np.arange(80_000).reshape(2, 40_000)
    sender.send({"samples": stereo})
    lease = lease_of(receiver)
    np.testing.assert_array_equal(lease.value["samples"], np.arange(80_000).reshape(2, 40_000))
    assert sender.traffic.copied_bytes.total() == 0
    ordinary = np.ones((2, 50_000), np.float32)[:, :40_000]
    sender.send(ordinary)
    assert lease_of(receiver).value.sum() == 80_000
    assert sender.traffic.copied_bytes == {"gathered": 320_000, "into_slot": 320_000}
    sender.close(), receiver.close()


def test_small_allocations_share_slots(shared: Transport, address: Address) -> None:
    receiver, sender = shared.receiver(address("a")), shared.sender(address("a"))
    for _ in range(20):
        arrays = [sender.allocate((300,), np.float32) for _ in range(1000)]  # a slot each would be 16 MB
        for number, values in enumerate(arrays):
            values[:] = number
        sender.send(arrays)
        lease = lease_of(receiver)
        assert all((values == number).all() for number, values in enumerate(lease.value))
        lease.release()
    assert sender.traffic.copied_bytes.total() == 0
    sender.close(), receiver.close()


def test_a_forwarder_returns_memory_while_it_waits(shared: Transport, address: Address) -> None:
    """Also over its second connection, whose descriptor has the number of the first."""
    source, middle = shared.sender(address("middle")), shared.receiver(address("middle"))
    forward = shared.sender(address("end"))
    middle.watch(forward)
    for _ in range(3):
        end = shared.receiver(address("end"))
        source.send(source.reserve(8 << 20))  # all there is
        lease = lease_of(middle)
        forward.send(lease.value, holding=lease)
        lease_of(end).release()
        assert middle.receive(0.05) is None  # gives the slots back, though nothing came
        end.close()
        assert middle.receive(0.05) is None  # sees that the end is gone
        source.reserve(8 << 20)
        source.discard()
    for sender in (source, forward):
        sender.close()
    middle.close()
