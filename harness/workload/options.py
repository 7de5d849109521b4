"""What workloads take beside the keys that every one has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from harness.errors import UsageError
from harness.protocols.options import Positive, PositiveSeconds, Seconds


@dataclass(frozen=True)
class OpenOptions:
    slo_p95_s: PositiveSeconds = 0.5
    """Limit of the p95 of latency (``workload.search=slo``)."""
    slo_most_per_s: Annotated[float, Meta(gt=0)] = 10_000.0
    """Arrivals a second, at most (``workload.search=slo``)."""


@dataclass(frozen=True)
class OfflineOptions:
    in_flight: Positive = 64
    """Recordings in service at once."""
    order: Literal["given", "longest_first", "by_length"] = "longest_first"
    """How recordings are taken up. What is long and begun last is waited for at the end."""
    compared: Positive = 200
    """Recordings, drawn by ``workload.seed``, that the eager reference transcribes too."""


@dataclass(frozen=True)
class StreamingOptions:
    duration_s: PositiveSeconds = 30.0
    """Speech of each stream; recordings are repeated or cut to it."""
    chunk_s: Annotated[float, Meta(ge=0.020, le=1.120)] = 0.1
    """Of sound."""
    speed: Annotated[float, Meta(gt=0)] = 1.0
    """How many times faster than real time is spoken: other than 1, no latency is that of a conversation."""
    ack_every: Positive = 1
    """Chunks between two acknowledgements. Above 1, a chunk's latency includes its wait for the next."""
    encoding: Literal["s16le", "f32le"] = "s16le"
    client_processes: Positive = 1
    """Each is one epoll loop; 20,000 chunks per second are about one core."""
    start_spread_s: Seconds = 0.0
    """Streams begin at random within this time; 0 takes one chunk, so that no two phases agree."""
    final_timeout_s: PositiveSeconds = 10.0
    """For the final text after the end of speech."""
    slo_p95_s: PositiveSeconds = 0.2
    """Limit of the p95 of chunk latency (``workload.search=slo``)."""
    slo_final_p95_s: Seconds = 0.0
    """Limit of the time from the end of speech to the final text, too: of its p95, or of every stream where
    they are too few for one (``workload.search=slo``); 0: none."""
    slo_most: Positive = 4000
    """Connections, at most (``workload.search=slo``)."""

    def __post_init__(self) -> None:
        if self.duration_s < self.chunk_s:
            raise UsageError(f"workload.options.duration_s={self.duration_s} is shorter than one chunk")
