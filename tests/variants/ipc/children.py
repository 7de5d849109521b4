"""What the other process does in the tests of the links; imported by name in a fresh process."""

from __future__ import annotations

import contextlib
import os
import zlib
from multiprocessing.connection import Connection

import numpy as np

from variants.ipc.types import PeerGoneError, Sender, Transport


def message(sender: Sender, number: int, nbytes: int, in_place: bool) -> tuple[int, int, np.ndarray]:
    """(number, checksum, payload); the payload written into the link's memory, or not."""
    payload = sender.reserve(nbytes) if in_place else np.empty(nbytes, np.uint8)
    payload[:] = np.random.default_rng(number).integers(0, 256, nbytes, np.uint8)
    return number, zlib.crc32(payload), payload


def send_for_ever(transport: Transport, address: str, largest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sender, number = transport.sender(address), 0
    while True:
        sender.send(message(sender, number, int(rng.integers(1, largest)), bool(rng.integers(2))))
        number += 1


def receive_for_ever(transport: Transport, address: str, report: Connection) -> None:
    """Reports one byte a message: ``.`` whole, ``T`` torn."""
    receiver = transport.receiver(address)
    while True:
        lease = receiver.receive()
        assert lease is not None
        _, checksum, payload = lease.value
        whole = zlib.crc32(payload) == checksum
        lease.release()
        os.write(report.fileno(), b"." if whole else b"T")


def forward_for_ever(transport: Transport, source: str, destination: str) -> None:
    """The man in the middle: passes messages on as they are, from the memory in which they came."""
    receiver, sender = transport.receiver(source), transport.sender(destination)
    receiver.watch(sender)
    while True:
        lease = receiver.receive()
        assert lease is not None
        try:
            sender.send(lease.value, holding=lease)
        except PeerGoneError:
            continue


def echo(transport: Transport, source: str, destination: str) -> None:
    """Answers (checksums, addresses, writable) of the arrays of each message; None ends it."""
    receiver, sender = transport.receiver(source), transport.sender(destination)
    while (lease := receiver.receive()) is not None and lease.value is not None:
        arrays = lease.value
        answer = [
            (zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data), array.shape, str(array.dtype))
            for array in arrays
        ]
        lease.release()
        sender.send(answer)


def send_again_and_again(transport: Transport, address: str, largest: int) -> None:
    """A sender that outlives its readers."""
    sender, number = transport.sender(address), 0
    while True:
        with contextlib.suppress(PeerGoneError):
            sender.send(message(sender, number, 1 + number * 7919 % largest, number % 2 == 0))
        number += 1
