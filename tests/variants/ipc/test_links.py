"""What every link promises, whatever it does with the payload."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.variants.ipc import children
from variants import registry
from variants.ipc.types import PeerGoneError, Receiver, Sender, Transport

Address = Callable[[str], str]


@dataclass(frozen=True)
class Thing:
    name: str
    values: np.ndarray


def exchange(sender: Sender, receiver: Receiver, value: object) -> object:
    """Send and receive in one process; a thread sends, because a socket holds only so much."""
    thread = threading.Thread(target=sender.send, args=(value,))
    thread.start()
    lease = receiver.receive(10)
    thread.join()
    assert lease is not None
    times = lease.times
    assert times.sent_ns <= times.posted_ns <= times.found_ns <= times.received_ns
    assert times.ready_ns <= times.found_ns
    assert 0 <= times.core_wait_ns <= times.found_ns - times.ready_ns
    return lease.value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.float32),
        np.zeros((0, 3), np.int16),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4),
        np.asfortranarray(np.arange(60_000, dtype=np.float32).reshape(300, 200)),
        np.arange(100_000, dtype=np.int16)[::3],
        np.frombuffer(b"read only" * 1000, np.uint8),
    ],
    ids=["small", "empty", "3d", "fortran", "strided", "read_only"],
)
def test_values_arrive_as_they_were_sent(transport: Transport, address: Address, array: np.ndarray) -> None:
    receiver, sender = transport.receiver(address("a")), transport.sender(address("a"))
    got = exchange(sender, receiver, [Thing("x", array), {"also": array[:0]}])
    assert isinstance(got, list) and got[0].name == "x"
    np.testing.assert_array_equal(got[0].values, array)
    assert got[0].values.dtype == array.dtype and got[0].values.shape == array.shape
    sender.close(), receiver.close()


def test_order_is_kept_and_nothing_is_lost(transport: Transport, address: Address) -> None:
    receiver, sender = transport.receiver(address("a")), transport.sender(address("a"))

    def produce() -> None:
        for number in range(2000):
            sender.send((number, np.full(number % 3000, number, np.int32)))

    producer = threading.Thread(target=produce)
    producer.start()
    for number in range(2000):
        lease = receiver.receive(10)
        assert lease is not None and lease.value[0] == number
        assert (lease.value[1] == number).all() and len(lease.value[1]) == number % 3000
        lease.release()
    producer.join()
    assert receiver.traffic.messages == sender.traffic.messages == 2000
    sender.close(), receiver.close()


def test_one_reader_serves_many_writers(transport: Transport, address: Address) -> None:
    receiver = transport.receiver(address("a"))
    senders = [transport.sender(address("a")) for _ in range(5)]
    for index, sender in enumerate(senders):
        sender.send((index, np.full(5000, index)))
    seen = set()
    for _ in senders:
        lease = receiver.receive(10)
        assert lease is not None and (lease.value[1] == lease.value[0]).all()
        seen.add(lease.value[0])
        lease.release()
    assert seen == set(range(5))
    for end in (*senders, receiver):
        end.close()


def test_a_sender_waits_for_a_reader_that_is_still_starting(transport: Transport, address: Address) -> None:
    sender = transport.sender(address("late"))
    thread = threading.Thread(target=sender.send, args=("hello",))
    thread.start()
    receiver = transport.receiver(address("late"))
    lease = receiver.receive(10)
    thread.join()
    assert lease is not None and lease.value == "hello"
    sender.close(), receiver.close()


@pytest.mark.parametrize("name", ["zeromq", "uds_copy", "shared_memory"])
def test_nobody_there_is_said_and_not_waited_for(name: str, address: Address) -> None:
    sender = registry.transport({"name": name, "options": {"connect_timeout_s": 0.05}}).sender(address("x"))
    with pytest.raises(PeerGoneError, match=r"nobody .* at .*/x"):
        sender.send("hello")
    sender.close()


def test_silence_ends_at_the_timeout(transport: Transport, address: Address) -> None:
    receiver = transport.receiver(address("a"))
    assert receiver.receive(0.0) is None
    assert receiver.receive(0.02) is None
    receiver.close()


def test_another_process_reads_the_same_bytes(
    transport: Transport, address: Address, spawn: Callable[..., object]
) -> None:
    receiver = transport.receiver(address("back"))
    spawn(children.echo, transport, address("there"), address("back"))
    sender = transport.sender(address("there"))
    rng = np.random.default_rng(1)
    for size in (1, 1000, 100_000, 1_500_000):
        arrays = [rng.integers(0, 256, size, np.uint8), rng.random((3, size // 3 + 1)).astype(np.float32)]
        sender.send(arrays)
        lease = receiver.receive(10)
        assert lease is not None
        assert lease.value == [(zlib.crc32(a.view(np.uint8).data), a.shape, str(a.dtype)) for a in arrays]
        lease.release()
    sender.close(), receiver.close()


def test_copies_are_counted_where_they_happen(transport: Transport, address: Address) -> None:
    receiver, sender = transport.receiver(address("a")), transport.sender(address("a"))
    payload = sender.allocate((1000, 100), np.float32)
    payload[:] = 1
    exchange(sender, receiver, payload)
    sent, received = sender.traffic.evidence(), receiver.traffic.evidence()
    copies = sent["copied_bytes_total"] + received["copied_bytes_total"]
    copies_of_one_byte = {"zeromq": 6, "uds_copy": 2, "shared_memory": 0}[transport.name]
    assert copies // 400_000 == copies_of_one_byte
    assert sent["shared_bytes"] == (400_000 if transport.name == "shared_memory" else 0)
    sender.close(), receiver.close()


def test_a_peer_that_is_behind_is_waited_for(address: Address) -> None:
    """Longer than the time after which an absent one is given up."""
    link = registry.transport(
        {"name": "zeromq", "options": {"connect_timeout_s": 0.05, "high_water_messages": 2}}
    )
    receiver, sender = link.receiver(address("a")), link.sender(address("a"))
    thread = threading.Thread(target=lambda: [sender.send(np.zeros(500_000, np.uint8)) for _ in range(12)])
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()  # it waits
    for _ in range(12):
        assert receiver.receive(10) is not None
    thread.join(10)
    assert not thread.is_alive() and sender.traffic.messages == 12
    sender.close(), receiver.close()
