"""The works of live streams: what needs no computing at once, and the chunks that are due together.

A stream's works are done one after the other. A push is done when every chunk has been computed whose right
context it brought; many bring none.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.audio.pcm import refuse_unusable
from harness.errors import RequestError
from harness.protocols import Transcript, Work
from harness.spans import SpanRecorder
from variants.batching.bounds import Waiting
from variants.batching.counts import Counts
from variants.serving.pool import StreamPool
from variants.serving.streams import STREAM_RATE, already_open, describe, no_free_slot, not_open, too_late


@dataclass(slots=True, eq=False)
class _Stream:
    slot: int
    works: deque[Waiting] = field(default_factory=deque)
    taken: int = 0
    """Samples of the first work that the slot has."""
    told: str = ""
    spoken_ns: int = 0


class LiveStreams:
    """Streams in the slots of a pool, which is opened for the first of them; see ``together.Kind``."""

    def __init__(self, open_pool: Callable[[int], StreamPool], slots: int) -> None:
        self._open_pool = open_pool
        self._slots = slots
        self._pool: StreamPool | None = None
        self._streams: dict[int, _Stream] = {}
        self._arrived: deque[Waiting] = deque()
        self.due: list[Waiting] = []
        """Works whose next chunk waits to be computed, oldest first, one of each stream at most."""
        self.pending = 0
        self.works = 0
        self.counts = Counts()
        self._refused = self._most_open = self._late = 0

    def submit(self, waiting: Waiting) -> None:
        self._arrived.append(waiting)
        self.pending += 1

    @property
    def has_arrivals(self) -> bool:
        return bool(self._arrived)

    def settle(self) -> None:
        """Do what needs no computing of what has come; the rest is queued behind it, or due."""
        while self._arrived:
            waiting = self._arrived.popleft()
            stream = self._streams.get(waiting.work.stream_id)
            if stream is None:
                self._without_stream(waiting)
                continue
            if waiting.work.kind == "abandon" and all(each.work.kind == "push" for each in stream.works):
                self._drop(stream)
            stream.works.append(waiting)
            waiting.spoken_ns = stream.spoken_ns = _spoken_ns(waiting, stream.spoken_ns)
            if len(stream.works) == 1:
                self._advance(stream)

    def end_late(self, limit_ns: int) -> None:
        """Streams whose next chunk should have been computed before ``limit_ns``."""
        for waiting in [each for each in self.due if each.spoken_ns < limit_ns]:
            self._late += 1
            self.due.remove(waiting)
            self._fail(waiting, str(too_late()))

    def compute(self, batch: Sequence[Waiting], spans: SpanRecorder) -> None:
        """The next chunk of each work's stream."""
        self._open().step([self._streams[each.work.stream_id].slot for each in batch], spans)

    def tell(self, waiting: Waiting, error: str | None) -> None:
        """The work is done with this chunk, or its next one is due."""
        if error is None:
            self._advance(self._streams[waiting.work.stream_id])
        else:
            self._fail(waiting, error)

    def evidence(self) -> dict[str, Any]:
        return {
            "slots": self._slots,
            "most_open": self._most_open,
            "refused": self._refused,
            "ended_late": self._late,
            **({} if self._pool is None else self._pool.evidence()),
            **self.counts.evidence("chunks"),
        }

    def _fail(self, waiting: Waiting, error: str) -> None:
        """Nothing more can come of this work's stream."""
        stream = self._streams[waiting.work.stream_id]
        stream.works.popleft()
        self._close(stream, waiting.work.stream_id)
        self._finish(waiting.work, error=error)

    # ------------------------------------------------------------ one work

    def _advance(self, stream: _Stream) -> None:
        """Do works of a stream until one has to wait for a chunk."""
        while stream.works:
            waiting = stream.works[0]
            try:
                if not self._do(stream, waiting.work):
                    self._queue(stream, waiting)
                    return
            except Exception as failure:  # an engine outlives whatever one work does to it
                self._fail(waiting, describe(failure))
                return
            if waiting.work.kind in ("commit", "abandon"):
                return

    def _drop(self, stream: _Stream) -> None:
        """Nobody waits for what is left of this stream: its chunks are not computed."""
        if stream.works:
            self.due.remove(stream.works[0])
        while stream.works:
            self._finish(stream.works.popleft().work)

    def _queue(self, stream: _Stream, waiting: Waiting) -> None:
        waiting.lengths = (self._open().window(stream.slot),)
        # Where a stream falls behind, its works become due later than younger ones of others.
        insort(self.due, waiting, key=lambda each: each.since_ns)

    def _do(self, stream: _Stream, work: Work) -> bool:
        """Whether the first work of ``stream`` is done; else a chunk of it is due."""
        if work.kind == "push":
            return self._push(stream, work)
        if work.kind == "open":
            stream.works.popleft()
            self._finish(work, error=str(already_open(work.stream_id)))
            return True
        pool = self._open()
        if work.kind == "commit":
            pool.end(stream.slot)
            if pool.window(stream.slot):
                return False
        result = pool.transcript(stream.slot) if work.kind == "commit" else None
        stream.works.popleft()
        self._close(stream, work.stream_id)
        self._finish(work, result)
        return True

    def _push(self, stream: _Stream, work: Work) -> bool:
        pool, samples = self._open(), work.samples
        if samples is None:
            raise RequestError(f"stream {work.stream_id} was given no samples")
        if not stream.taken:  # a sample that is no number would be heard as anything
            refuse_unusable(samples, STREAM_RATE, what="stream's chunk")
        stream.taken += pool.push(stream.slot, samples[stream.taken :])
        if pool.window(stream.slot):
            return False
        text, told = pool.text(stream.slot), stream.told
        stream.told, stream.taken = text, 0
        stream.works.popleft()
        self._finish(work, text if text != told else None)
        return True

    def _without_stream(self, waiting: Waiting) -> None:
        work = waiting.work
        if work.kind == "abandon":
            self._finish(work)
        elif work.kind != "open":
            self._finish(work, error=str(not_open(work.stream_id)))
        else:
            try:
                self._streams[work.stream_id] = _Stream(self._new_slot())
            except Exception as failure:
                self._finish(work, error=describe(failure))
            else:
                self._most_open = max(self._most_open, len(self._streams))
                self._finish(work)

    def _new_slot(self) -> int:
        """Raises ``RequestError`` where none is free: more streams than are carried would all be late."""
        if len(self._streams) >= self._slots:
            self._refused += 1
            raise no_free_slot(self._slots)
        return self._open().open()

    def _close(self, stream: _Stream, stream_id: int) -> None:
        """Works that came behind the end of a stream find none, or open the next of its name."""
        del self._streams[stream_id]
        self._open().close(stream.slot)
        self._arrived.extendleft(reversed(stream.works))

    def _finish(self, work: Work, result: Transcript | str | None = None, error: str | None = None) -> None:
        self.works += 1
        self.pending -= 1
        work.result, work.error = result, error
        work.done(work)

    def _open(self) -> StreamPool:
        if self._pool is None:
            self._pool = self._open_pool(self._slots)
        return self._pool


def _spoken_ns(waiting: Waiting, before_ns: int) -> int:
    samples = waiting.work.samples
    audio_ns = 0 if samples is None else len(samples) * 1_000_000_000 // STREAM_RATE
    return max(before_ns, waiting.since_ns) + audio_ns
