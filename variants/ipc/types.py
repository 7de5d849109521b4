"""Seams of the ipc axis: one direction of traffic between processes of one service.

A ``Receiver`` binds an address and takes messages from any number of ``Sender``s; between one
sender and one receiver, order is kept. A message is any picklable value. What happens to the arrays
in it (copied, serialized, mapped) is the choice that the axis is about.

A broken peer is an event, not a crash: a sender whose peer dies while it sends raises
``PeerGoneError``, one whose peer has died since connects anew, a receiver forgets the connection and
goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import numpy as np

from harness.errors import HarnessError, UsageError
from harness.protocols.options import Seconds


class PeerGoneError(HarnessError):
    """The other side died or never came up. The message was not delivered, or cannot be known to be."""


class PayloadTooLargeError(UsageError):
    """A message that can never fit the link; the text names the option that makes it fit."""


class TornReadError(HarnessError):
    """Memory changed under a reader: a bug of the link, never to be hidden."""


class Times(NamedTuple):
    """A message's way, on the span clock. The sender's work is from ``sent_ns``, when it began to
    serialize, to ``posted_ns``, when it handed the message to the link; the receiver's from
    ``found_ns``, when it had noticed the message, to ``received_ns``, when the value was whole.

    ``ready_ns`` is when the receiver turned to its links, and ``core_wait_ns`` how much of the time
    before ``found_ns`` it could have run but had no core. What else lies between the two sides' work
    is nobody's.
    """

    sent_ns: int
    posted_ns: int
    ready_ns: int
    found_ns: int
    received_ns: int
    core_wait_ns: int


class Lease(Protocol):
    """A received message. Arrays in ``value`` may be read-only views of memory that is lent."""

    value: Any
    times: Times

    def release(self) -> None:
        """Give the memory back. No array of ``value`` may be touched after it. Idempotent."""
        ...


class Sender(Protocol):
    """Sends to one address; for one thread at a time. Connects on first use and after a break."""

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory to produce a payload in. On a link without shared memory, ordinary memory.

        Valid until the next ``send``, carried by it or not, or ``discard``. Raises as ``send`` does.
        """
        ...

    def reserve(self, nbytes: int) -> np.ndarray:
        """``allocate`` of ``nbytes`` bytes, uint8 ``[nbytes]``."""
        ...

    def discard(self) -> None:
        """Give back what was allocated and not sent (the request failed half-way)."""
        ...

    def send(self, value: Any, holding: Lease | None = None) -> None:
        """Send, waiting for room if the link is full.

        ``holding`` is the lease that arrays of ``value`` may point into. The link releases it: at
        once where it copied them, else when the receiver has given them back.

        Raises ``PeerGoneError`` and ``PayloadTooLargeError``; ``holding`` is released then too.
        """
        ...

    def fileno(self) -> int:
        """What ``collect`` wants to be called for when readable; -1 for nothing."""
        ...

    @property
    def connections(self) -> int:
        """How often it has connected: ``fileno`` is another descriptor each time."""
        ...

    def collect(self) -> None:
        """Take back memory that the receiver released, without waiting."""
        ...

    @property
    def traffic(self) -> Traffic: ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """Bound to one address; for one thread at a time."""

    def receive(self, timeout_s: float | None = None) -> Lease | None:
        """The next message of any sender, or None after ``timeout_s``."""
        ...

    def watch(self, sender: Sender) -> None:
        """While ``receive`` waits, keep ``collect``-ing for ``sender``.

        A process that forwards lent memory has to: the memory it waits for may be its own to return.
        """
        ...

    def leave(self) -> None:
        """The reader goes to other work: what is posted from now on queues until it ``receive``s again."""
        ...

    @property
    def traffic(self) -> Traffic: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """A choice of the axis with its options: picklable, so that each process makes its own ends."""

    @property
    def name(self) -> str: ...

    def sender(self, address: str) -> Sender:
        """``address`` is a path in a folder that only the owner may enter."""
        ...

    def receiver(self, address: str) -> Receiver: ...

    def not_engaged(self, sent: Traffic) -> str | None:
        """Why what was ``sent`` over a link did not use this choice, or None where it did."""
        ...


@dataclass(frozen=True)
class Connecting:
    """What every transport takes."""

    connect_timeout_s: Seconds = 5.0
    """How long a sender waits for a peer that is not there."""


@dataclass(slots=True)
class Traffic:
    """What went through one end of a link, counted where it happens.

    ``copied_bytes`` has an entry per place in the code (or in the kernel, for a socket) where
    payload bytes were copied from one memory to another.
    """

    messages: int = 0
    payload_bytes: int = 0
    metadata_bytes: int = 0
    shared_bytes: int = 0
    """Payload bytes that the other side reads where they were written."""
    copied_bytes: Counter[str] = field(default_factory=Counter)
    broken_links: int = 0

    def add(self, other: Traffic) -> None:
        for item in fields(self):
            if item.name != "copied_bytes":
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        self.copied_bytes.update(other.copied_bytes)

    def evidence(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "payload_bytes": self.payload_bytes,
            "metadata_bytes": self.metadata_bytes,
            "shared_bytes": self.shared_bytes,
            "copied_bytes": dict(self.copied_bytes),
            "copied_bytes_total": self.copied_bytes.total(),
            "broken_links": self.broken_links,
        }


def total(traffics: Iterable[Traffic]) -> Traffic:
    """What went through several ends together."""
    found = Traffic()
    for traffic in traffics:
        found.add(traffic)
    return found
