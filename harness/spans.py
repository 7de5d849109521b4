"""The span clock: where the time of one request went.

Times are integer nanoseconds of ``CLOCK_MONOTONIC``. On Linux every process of the host reads the
same clock, so spans recorded in different processes lie on one axis and can be merged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Protocol

now_ns = time.monotonic_ns


class CoreWait:
    """How long the thread that makes it was ready to run while no core was free, since it began.

    The kernel counts it (Documentation/scheduler/sched-stats.rst): what passes between a message's
    arrival and the thread's return from its sleep is mostly this, and no work of either side.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # this kernel does not count it
            self._fd = -1

    def read_ns(self) -> int:
        """0 where the kernel does not count it."""
        return int(os.pread(self._fd, _SCHEDSTAT_BYTES, 0).split()[1]) if self._fd != -1 else 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)


def core_wait_ns() -> int:
    """One reading of ``CoreWait`` for the calling thread, which keeps no file open."""
    clock = CoreWait()
    try:
        return clock.read_ns()
    finally:
        clock.close()


_SCHEDSTAT_BYTES = 96  # three numbers of 64 bits

#: Stages of a request, in order. Reports stack them in this order, and sample files have one
#: column for each, so that files of different variants line up. ``batch`` is the wait for the
#: other requests of a batch; the spans after it belong to each request of the batch for their wall time.
#: The four from ``connect`` are all that a client sees of a server that is not ours; ``engine`` is the whole
#: work of an engine of others that tells no stages. The wire counts these names: a new one comes last.
SPAN_NAMES = (
    "queue",
    "decode",
    "resample",
    "denoise",
    "vad",
    "segment",
    "ipc",
    "batch",
    "features",
    "encoder",
    "decoder",
    "text",
    "reply",
    "connect",
    "upload",
    "wait",
    "download",
    "engine",
)
_KNOWN = frozenset(SPAN_NAMES)


class Span(NamedTuple):
    """One interval of a request's life, ``[start_ns, end_ns)`` on the monotonic clock."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) * 1e-9


class Marker(Protocol):
    """Receives the same ranges as the recorder, for an external profiler (NVTX)."""

    def push(self, name: str) -> None: ...

    def pop(self) -> None: ...


class NoMarker:
    """The marker of a run without a profiler."""

    def push(self, name: str) -> None:
        pass

    def pop(self) -> None:
        pass


class _OpenSpan:
    """Context manager of one span; a class rather than a generator because it costs a third."""

    __slots__ = ("_name", "_recorder", "_start_ns")

    def __init__(self, recorder: SpanRecorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._start_ns = 0

    def __enter__(self) -> None:
        recorder = self._recorder
        if recorder.open_name is not None:
            raise ValueError(f"span {self._name!r} opened inside {recorder.open_name!r}: spans do not nest")
        recorder.open_name = self._name
        recorder.marker.push(self._name)
        self._start_ns = now_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_ns = now_ns()
        recorder = self._recorder
        recorder.marker.pop()
        recorder.open_name = None
        recorder.spans.append(Span(self._name, self._start_ns, end_ns))


class SpanRecorder:
    """Collects the spans of one request in one thread.

    Spans never nest: a nested span would be counted twice in the ledger. A name may repeat (one
    ``encoder`` span per batch of segments).
    """

    __slots__ = ("marker", "open_name", "spans")

    def __init__(self, marker: Marker | None = None) -> None:
        self.spans: list[Span] = []
        self.open_name: str | None = None
        self.marker: Marker = marker or NoMarker()

    def span(self, name: str) -> _OpenSpan:
        """Time the ``with`` block under ``name``, one of ``SPAN_NAMES``."""
        if name not in _KNOWN:
            raise ValueError(f"unknown span {name!r}; spans are {', '.join(SPAN_NAMES)}")
        return _OpenSpan(self, name)

    def add(self, name: str, start_ns: int, end_ns: int) -> None:
        """Record an interval that was measured elsewhere (another thread or process)."""
        if name not in _KNOWN:
            raise ValueError(f"unknown span {name!r}; spans are {', '.join(SPAN_NAMES)}")
        self.spans.append(Span(name, start_ns, end_ns))

    def divide_last(self, name: str, duration_ns: int) -> None:
        """Book ``duration_ns`` of the newest span under ``name``: two stages took turns within it.

        Its end is given to ``name``, so both durations are true, though their instants are not.
        """
        if name not in _KNOWN:
            raise ValueError(f"unknown span {name!r}; spans are {', '.join(SPAN_NAMES)}")
        last = self.spans.pop()
        joint_ns = max(last.start_ns, last.end_ns - duration_ns)
        self.spans += [last._replace(end_ns=joint_ns), Span(name, joint_ns, last.end_ns)]

    def extend(self, spans: Iterable[Span]) -> None:
        """Adopt spans that another process recorded on the same clock."""
        self.spans.extend(spans)


class Unrecorded(SpanRecorder):
    """Keeps nothing of what is added: one serves all the work whose spans nobody asks for."""

    __slots__ = ()

    def add(self, name: str, start_ns: int, end_ns: int) -> None:
        pass

    def extend(self, spans: Iterable[Span]) -> None:
        pass
