"""Counts of the HTTP door, and their text as Prometheus reads it (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_EDGES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Histogram:
    """Durations in seconds, counted by the first edge that is not below them."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_EDGES_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_EDGES_S, seconds)] += 1
        self.total_s += seconds

    @property
    def mean_s(self) -> float:
        observed = sum(self.counts)
        return self.total_s / observed if observed else 0.0

    def lines(self, name: str) -> Iterator[str]:
        below = 0
        for edge, count in zip((*map(str, _EDGES_S), "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{edge}"}} {below}'
        yield f"{name}_sum {self.total_s:.6f}"
        yield f"{name}_count {below}"


@dataclass(slots=True)
class Counts:
    """What the door has seen since it opened."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status; a path without a route is ``other``."""
    seconds: Histogram = field(default_factory=Histogram)
    """Of transcribed recordings, from the request's first line to its answer."""
    speech_s: float = 0.0
    conversations: int = 0
    """Websockets that were accepted."""
    bytes_in: int = 0
    bytes_out: int = 0
    defects: Counter[str] = field(default_factory=Counter)
    """Exceptions that no request should cause, by name."""

    def note(self, route: str, status: int) -> None:
        self.requests[route, status] += 1

    def exposition(self, queued: int, buffered_bytes: int) -> str:
        return "\n".join(self._lines(queued, buffered_bytes)) + "\n"

    def _lines(self, queued: int, buffered_bytes: int) -> Iterator[str]:
        yield from _head("asr_requests_total", "counter", "Answered HTTP requests.")
        for (route, status), count in sorted(self.requests.items()):
            yield f'asr_requests_total{{route="{route}",status="{status}"}} {count}'
        yield from _head("asr_transcription_seconds", "histogram", "From a request to its transcript.")
        yield from self.seconds.lines("asr_transcription_seconds")
        for name, kind, text, value in (
            ("asr_speech_seconds_total", "counter", "Speech transcribed.", f"{self.speech_s:.3f}"),
            ("asr_conversations_total", "counter", "Websockets accepted.", str(self.conversations)),
            ("asr_received_bytes_total", "counter", "Of request bodies.", str(self.bytes_in)),
            ("asr_queued_recordings", "gauge", "Recordings in the backend.", str(queued)),
            ("asr_buffered_bytes", "gauge", "Of uploads held in memory.", str(buffered_bytes)),
        ):
            yield from _head(name, kind, text)
            yield f"{name} {value}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
