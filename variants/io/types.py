"""What all ways of serving connections share: their options, their door and their counts."""

from __future__ import annotations

import resource
import threading
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from harness.protocols import Evidence
from harness.protocols.options import Count, Positive, Seconds
from harness.protocols.sockets import Address
from harness.protocols.wire import Limits


@dataclass(frozen=True, slots=True)
class IoOptions:
    """What every connection server takes."""

    transport: Literal["unix", "tcp"] = "unix"
    """``tcp``: loopback only."""
    path: str = ""
    """Of the Unix socket; empty: in a temporary folder of its own."""
    host: str = "127.0.0.1"
    """With ``transport=tcp``."""
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 0
    """With ``transport=tcp``; 0: the system chooses."""
    backlog: Count = 4096
    """Connections that may wait to be accepted."""
    max_connections: Count = 10_000
    """One more is told so and turned away."""
    max_frame_bytes: Count = 1 << 20
    """Of payload."""
    max_session_bytes: Count = 256 << 20
    """Audio of one recording or stream."""
    max_sessions: Count = 16
    """Open at once on one connection."""
    max_buffered_bytes: Count = 1 << 30
    """Bytes of unfinished recordings that all connections together may hold; one holds at most as much as
    it leaves to the others."""
    max_jobs: Count = 64
    """Of one connection that the backend may hold at once, so that no client fills it alone."""
    sample_rate: Positive = 16_000
    """The rate of the engine, and so the only one at which a live stream is accepted."""
    idle_timeout_s: Seconds = 60.0
    """Silence after which a connection is closed."""
    slow_peer_timeout_s: Seconds = 10.0
    """How long a frame may take to arrive whole, and an answer to be read."""
    high_water_bytes: Count = 256 << 10
    """Unsent answers above which a connection is not read."""
    drain_timeout_s: Seconds = 10.0
    """For open sessions to finish after SIGTERM."""

    @property
    def limits(self) -> Limits:
        session_bytes = min(self.max_session_bytes, self.max_buffered_bytes // 2)
        return Limits(self.max_frame_bytes, session_bytes, self.max_sessions)


class Server(Protocol):
    """A door to a ``Backend``: it takes connections and speaks ``harness.protocols.wire`` with them."""

    @property
    def address(self) -> Address:
        """Where clients connect; known after ``bind``."""
        ...

    def bind(self) -> Address:
        """Start to listen. Connections wait in the backlog until ``serve``."""
        ...

    def serve(self) -> None:
        """Serve in the calling thread until ``stop``, then drain, close everything and return."""
        ...

    def stop(self) -> None:
        """Begin to drain: no new connection or session, open ones may finish within
        ``drain_timeout_s``. Safe from any thread and from a signal handler; returns at once."""
        ...

    def evidence(self) -> Evidence: ...

    def close(self) -> None:
        """Give the last descriptors back; only after the backend is closed, which may still answer."""
        ...


@dataclass(slots=True)
class Traffic:
    """Counts of one connection, and of all once they are merged."""

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    recordings: int = 0
    streams: int = 0
    busy: int = 0
    """Times a frame had to wait for room in the backend, or for the connection's own jobs."""
    over_high_water: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Traffic) -> None:
        for item in fields(self):
            if item.name != "errors":
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        self.errors.update(other.errors)

    def as_dict(self) -> dict[str, Any]:
        counts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "errors"}
        return counts | {"errors": dict(sorted(self.errors.items()))}


@dataclass(frozen=True, slots=True)
class Switches:
    """Context switches of this process: gave the core up (voluntary) or lost it (involuntary)."""

    voluntary: int
    involuntary: int

    @classmethod
    def now(cls) -> Switches:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(usage.ru_nvcsw, usage.ru_nivcsw)

    def since(self, earlier: Switches) -> Switches:
        return Switches(self.voluntary - earlier.voluntary, self.involuntary - earlier.involuntary)


@dataclass(frozen=True, slots=True)
class Visits:
    """How many clients came, how many there were at once, and on how many threads of the server."""

    connections: int
    peak: int
    threads: int
    per_thread: int


def evidence_of(
    kind: str, visits: Visits, since: Switches, traffic: Traffic, budget: Budget, **own: Any
) -> Evidence:
    """What each server says of itself; ``own`` is what only this kind can say."""
    switches = Switches.now().since(since)
    return {
        "io": {
            "kind": kind,
            **({} if visits.connections else {"not_engaged": "no client connected"}),
            "connections": visits.connections,
            "peak_connections": visits.peak,
            "io_threads": visits.threads,
            "process_threads": threading.active_count(),
            "connections_per_thread": visits.per_thread,
            **own,
            "voluntary_switches": switches.voluntary,
            "involuntary_switches": switches.involuntary,
            "buffered_bytes": budget.held,
            **traffic.as_dict(),
        }
    }


class Budget:
    """Bytes that all connections together may hold; safe from several threads.

    A connection's share is what is left after it has taken it: the first may hold half, and however many hold
    all they can, as much as each of them holds is left for the next (Choudhury and Hahne's dynamic threshold,
    1998).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        return self._held

    def take(self, amount: int, own: int) -> bool:
        """``amount`` more for a connection that holds ``own``; False where that would exceed its share."""
        with self._lock:
            if own + amount > self._limit - self._held - amount:
                return False
            self._held += amount
            return True

    def give_back(self, amount: int) -> None:
        with self._lock:
            self._held -= amount
