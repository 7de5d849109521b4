"""What a server in a process of its own is told, and what it says when it has ended. Picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.protocols import Evidence, ServiceSpec


@dataclass(frozen=True)
class ServerPlan:
    """What to serve and how: one choice of each axis of the serving path. Picklable."""

    spec: ServiceSpec
    topology: str = "inprocess"
    io: str = "epoll"
    io_options: Mapping[str, Any] = field(default_factory=dict)
    gc: str = "default"
    gc_options: Mapping[str, Any] = field(default_factory=dict)
    warm_up_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectorPause:
    """One garbage collection in the serving process; nanoseconds of the monotonic clock."""

    generation: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class ServerEvidence:
    """What the process said about itself when it ended."""

    evidence: Evidence
    pauses: tuple[CollectorPause, ...]
