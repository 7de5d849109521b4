"""Works that are computed together: which, when, and what of it is told afterwards.

A batch is built around the work that has waited longest. To it come the waiting works nearest in length, as
long as rows, padded frames and padding allow. A younger work may so be served before an older one, but only
a stated number of times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from harness.protocols import Evidence, Segment, Transcript, Work
from harness.protocols.options import Count, Positive
from harness.spans import SpanRecorder, now_ns
from variants.batching.types import Inference
from variants.serving.streams import STREAM_RATE, StreamTable, describe

_FRAME_S = 0.01


@dataclass(frozen=True)
class Bounds:
    """What a batch may be, and how much may wait for one."""

    max_batch: Positive = 64
    """Segments that one batch may have; one work of more is a batch by itself."""
    max_frames: Positive = 128_000
    """Frames of 10 ms that it may have, padding included; one work of more is a batch by itself."""
    max_padding: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Share of a batch that may be padding: what is shorter than its longest segment. Where the oldest work's
    own segments differ by more, as much. An engine that sorts segments into batches of its own pads less."""
    max_passed_over: Count = 8
    """Batches with younger works that a work lets pass; from then on none overtakes it."""
    max_pending: Positive = 512
    """Works to hold; more wait in the link, which slows their senders down."""


@dataclass(slots=True)
class Waiting:
    """A work and, in samples at 16 kHz, the lengths of its segments."""

    work: Work
    lengths: tuple[int, ...]
    since_ns: int
    passed_over: int = 0

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def is_recording(self) -> bool:
        return self.work.kind == "transcribe"


def _length(segment: Segment) -> int:
    """In samples at one rate: before a front end on the device, recordings come at their own."""
    return -(-len(segment.samples) * STREAM_RATE // segment.sample_rate)


class Chosen(NamedTuple):
    """Indices of the works of the next batch, that of the oldest first; ``full``: of what waits no more
    fits, or there are as many rows as there may be."""

    indices: list[int]
    full: bool


def choose(waiting: Sequence[Waiting], bounds: Bounds) -> Chosen:
    """The batch around the oldest of ``waiting``, which is a recording. See the module."""
    oldest, rows, chosen, full = waiting[0], list(waiting[0].lengths), [0], False
    most_padding = max(bounds.max_padding, padding(rows))
    # Stable: among works of the same length, the older.
    for index in sorted(_eligible(waiting, bounds), key=lambda i: abs(waiting[i].longest - oldest.longest)):
        candidate = [*rows, *waiting[index].lengths]
        if len(candidate) > bounds.max_batch or _frames(candidate) > bounds.max_frames:
            full = True
        elif padding(candidate) <= most_padding:
            chosen.append(index)
            rows = candidate
    return Chosen(chosen, full or len(rows) >= bounds.max_batch or _frames(rows) >= bounds.max_frames)


def _eligible(waiting: Sequence[Waiting], bounds: Bounds) -> list[int]:
    """Recordings that may join the oldest: none that is younger than one which has let enough pass."""
    enough = (i for i, each in enumerate(waiting) if i and each.passed_over >= bounds.max_passed_over)
    youngest = next(enough, len(waiting) - 1)
    return [index for index in range(1, youngest + 1) if waiting[index].is_recording]


def area(lengths: Sequence[int]) -> int:
    """Of ``[rows, longest]``, padding included."""
    return len(lengths) * max(lengths, default=0)


def _frames(lengths: Sequence[int]) -> float:
    return area(lengths) / (STREAM_RATE * _FRAME_S)


def padding(lengths: Sequence[int]) -> float:
    """The share of ``[rows, longest]`` that is beyond the rows' own lengths."""
    return 1.0 - sum(lengths) / area(lengths) if area(lengths) else 0.0


class Together:
    """See ``harness.protocols.Engine``.

    A batch that is not full waits for company until the oldest work has waited ``delay_s``, or until the
    engine has been free for so long: one that idles serves what comes at once. Works of live streams do not
    wait: each is done by itself when it is the oldest, or when no batch is due.
    """

    batches = True

    def __init__(
        self,
        name: str,
        inference: Inference,
        bounds: Bounds,
        delay_s: float = 0.0,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._name = name
        self._inference = inference
        self._bounds = bounds
        self._delay_ns = round(delay_s * 1e9)
        self._clock = clock
        self._streams = StreamTable(inference.open_stream)
        self._waiting: list[Waiting] = []  # oldest first
        self._free_since_ns = -self._delay_ns
        self._counts = _Counts()

    def submit(self, work: Work) -> None:
        lengths = tuple(_length(segment) for segment in work.segments)
        self._waiting.append(Waiting(work, lengths, self._clock()))

    def step(self) -> bool:
        if not self._waiting:
            return False
        if self._waiting[0].is_recording and self._batch_due_in_ns() <= 0:
            self._serve(self._take(choose(self._waiting, self._bounds).indices))
            self._free_since_ns = self._clock()
            return True
        return self._do_stream_work()

    def _take(self, indices: Sequence[int]) -> list[Waiting]:
        taken, youngest, left = set(indices), max(indices), []
        for index, each in enumerate(self._waiting):
            if index not in taken:
                each.passed_over += index < youngest
                left.append(each)
        batch = [self._waiting[index] for index in indices]
        self._waiting = left
        return batch

    def _do_stream_work(self) -> bool:
        """The oldest one, if there is one."""
        place = next((i for i, each in enumerate(self._waiting) if not each.is_recording), None)
        if place is None:
            return False
        work = self._waiting.pop(place).work
        try:
            work.result = self._streams.do(work)
        except Exception as failure:  # an engine outlives whatever one work does to it
            work.error = describe(failure)
        work.done(work)
        return True

    def _serve(self, batch: Sequence[Waiting]) -> None:
        """All at once; where that fails, one by one, so that each failure is its own work's."""
        began_ns = self._clock()
        recorder = SpanRecorder(batch[0].work.spans.marker)
        found, error = self._computed(batch, recorder)
        self._counts.computed(began_ns, self._clock())
        if error is not None and len(batch) > 1:
            self._counts.taken_apart += 1
            for each in batch:
                self._serve([each])
            return
        self._counts.add(batch, began_ns)
        for each, transcript in zip(batch, found, strict=True):
            work = each.work
            work.batch_id, work.batch_size = self._counts.batches, len(batch)
            # The batch's stages belong to each work in it, for their wall time.
            work.spans.add("batch", each.since_ns, began_ns)
            work.spans.extend(recorder.spans)
            work.result, work.error = transcript, error
            work.done(work)

    def _computed(
        self, batch: Sequence[Waiting], recorder: SpanRecorder
    ) -> tuple[Sequence[Transcript | None], str | None]:
        try:
            return self._inference.transcribe([each.work.segments for each in batch], recorder), None
        except Exception as failure:  # an engine outlives whatever one work does to it
            return [None] * len(batch), describe(failure)

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def wants_work(self) -> bool:
        return len(self._waiting) < self._bounds.max_pending

    @property
    def due_in_s(self) -> float | None:
        if not self._waiting:
            return None
        if not all(each.is_recording for each in self._waiting):
            return 0.0
        return max(0.0, self._batch_due_in_ns() * 1e-9)

    def _batch_due_in_ns(self) -> int:
        if self._delay_ns == 0 or not self.wants_work or choose(self._waiting, self._bounds).full:
            return 0
        return min(self._waiting[0].since_ns, self._free_since_ns) + self._delay_ns - self._clock()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self._inference.warm_up(lengths_s)

    def evidence(self) -> Evidence:
        batching = {"name": self._name, "stream_works": self._streams.works, **self._counts.evidence()}
        return {**self._inference.evidence(), "batching": batching}


class _Counts:
    """What was put together, and what it waited. Times are from the first batch's beginning to the last
    one's end."""

    def __init__(self) -> None:
        self.batches = 0
        self.taken_apart = 0
        self._busy_ns = 0
        self._first_ns: int | None = None
        self._last_ns = 0
        self._sizes: Counter[int] = Counter()
        self._valid = self._padded = 0
        self._waited_ns = self._longest_wait_ns = 0
        self._most_passed_over = 0

    def computed(self, began_ns: int, ended_ns: int) -> None:
        self._first_ns = began_ns if self._first_ns is None else self._first_ns
        self._last_ns = ended_ns
        self._busy_ns += ended_ns - began_ns

    def add(self, batch: Sequence[Waiting], began_ns: int) -> None:
        self.batches += 1
        self._sizes[len(batch)] += 1
        rows = [length for each in batch for length in each.lengths]
        self._valid += sum(rows)
        self._padded += area(rows)
        for each in batch:
            self._waited_ns += began_ns - each.since_ns
            self._longest_wait_ns = max(self._longest_wait_ns, began_ns - each.since_ns)
            self._most_passed_over = max(self._most_passed_over, each.passed_over)

    def evidence(self) -> dict[str, Any]:
        works = sum(size * count for size, count in self._sizes.items())
        lasted_ns = 0 if self._first_ns is None else self._last_ns - self._first_ns
        return {
            "recordings": works,
            "batches": self.batches,
            "batches_by_size": {str(size): count for size, count in sorted(self._sizes.items())},
            "batches_taken_apart": self.taken_apart,
            "padding_share": 1.0 - self._valid / self._padded if self._padded else 0.0,
            "mean_wait_s": self._waited_ns * 1e-9 / works if works else 0.0,
            "longest_wait_s": self._longest_wait_ns * 1e-9,
            "most_passed_over": self._most_passed_over,
            "busy_share": self._busy_ns / lasted_ns if lasted_ns else 0.0,
            "idle_share": 1.0 - self._busy_ns / lasted_ns if lasted_ns else 0.0,
        }
