"""No timer: whenever the engine is free it takes what is there, batched by length, oldest first.

A batch is built around the work that has waited longest, so that none waits longer than it takes to
serve those that came before it. To it come the waiting works nearest in length, as long as rows and
padding allow. An engine that keeps up serves each work as it comes; one that does not finds more to
put together each time it is free, which is what makes it keep up.

Works of live streams are done one at a time, each when it is the oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from harness.protocols import Evidence, Segment, Transcript, Work
from harness.protocols.options import Positive
from harness.spans import SpanRecorder, now_ns
from variants.batching.types import Inference
from variants.serving.streams import STREAM_RATE, StreamTable, describe


@dataclass(frozen=True)
class Options:
    max_batch: Positive = 64
    """Segments that one batch may have; one work of more is a batch by itself."""
    max_padding: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Share of a batch that may be padding: what is shorter than its longest segment."""
    max_pending: Positive = 512
    """Works to hold; more wait in the link, which slows their senders down."""


def build(inference: Inference, options: Options) -> Continuous:
    return Continuous(inference, options)


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: Work
    lengths: tuple[int, ...]
    """Of its segments, in samples at 16 kHz."""
    since_ns: int

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)


def _length(segment: Segment) -> int:
    """In samples at one rate: before a front end on the device, recordings come at their own."""
    return -(-len(segment.samples) * STREAM_RATE // segment.sample_rate)


class Continuous:
    """See ``harness.protocols.Engine``."""

    def __init__(self, inference: Inference, options: Options) -> None:
        self._inference = inference
        self._options = options
        self._streams = StreamTable(inference.open_stream)
        self._waiting: list[_Waiting] = []  # oldest first
        self._counts = _Counts()

    def submit(self, work: Work) -> None:
        lengths = tuple(_length(segment) for segment in work.segments)
        self._waiting.append(_Waiting(work, lengths, now_ns()))

    def step(self) -> bool:
        if not self._waiting:
            return False
        if self._waiting[0].work.kind != "transcribe":
            self._do_stream_work(self._waiting.pop(0).work)
            return True
        chosen = choose(self._waiting, self._options)
        batch = [self._waiting[index] for index in chosen]
        taken = set(chosen)
        self._waiting = [each for index, each in enumerate(self._waiting) if index not in taken]
        self._serve(batch)
        return True

    def _do_stream_work(self, work: Work) -> None:
        try:
            work.result = self._streams.do(work)
        except Exception as failure:  # an engine outlives whatever one work does to it
            work.error = describe(failure)
        work.done(work)

    def _serve(self, batch: Sequence[_Waiting]) -> None:
        """All at once; where that fails, one by one, so that each failure is its own work's."""
        began_ns = now_ns()
        recorder = SpanRecorder(batch[0].work.spans.marker)
        found, error = self._computed(batch, recorder)
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
        self, batch: Sequence[_Waiting], recorder: SpanRecorder
    ) -> tuple[Sequence[Transcript | None], str | None]:
        began_ns = now_ns()
        try:
            return self._inference.transcribe([each.work.segments for each in batch], recorder), None
        except Exception as failure:  # an engine outlives whatever one work does to it
            return [None] * len(batch), describe(failure)
        finally:
            self._counts.busy_ns += now_ns() - began_ns

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def wants_work(self) -> bool:
        return len(self._waiting) < self._options.max_pending

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self._inference.warm_up(lengths_s)

    def evidence(self) -> Evidence:
        batching = {
            "name": "continuous",
            "stream_works": self._streams.works,
            **self._counts.evidence(),
        }
        return {**self._inference.evidence(), "batching": batching}


def choose(waiting: Sequence[_Waiting], options: Options) -> list[int]:
    """Indices of the works of the next batch, that of the oldest first. See the module."""
    rows = list(waiting[0].lengths)
    chosen = [0]
    others = [index for index, each in enumerate(waiting) if index and each.work.kind == "transcribe"]
    # Stable: among works of the same length, the older.
    for index in sorted(others, key=lambda index: abs(waiting[index].longest - waiting[0].longest)):
        candidate = [*rows, *waiting[index].lengths]
        if len(candidate) > options.max_batch:
            continue
        if padding(candidate) > options.max_padding:
            continue
        chosen.append(index)
        rows = candidate
        if len(rows) == options.max_batch:
            break
    return chosen


def padding(lengths: Sequence[int]) -> float:
    """The share of ``[rows, longest]`` that is beyond the rows' own lengths."""
    area = len(lengths) * max(lengths, default=0)
    return 1.0 - sum(lengths) / area if area else 0.0


class _Counts:
    """What was put together, and what it waited."""

    def __init__(self) -> None:
        self.batches = 0
        self.taken_apart = 0
        self.busy_ns = 0
        self._first_ns: int | None = None
        self._sizes: Counter[int] = Counter()
        self._valid = self._padded = 0
        self._waited_ns = self._longest_wait_ns = 0

    def add(self, batch: Sequence[_Waiting], began_ns: int) -> None:
        self._first_ns = self._first_ns or began_ns
        self.batches += 1
        self._sizes[len(batch)] += 1
        rows = [length for each in batch for length in each.lengths]
        self._valid += sum(rows)
        self._padded += len(rows) * max(rows, default=0)
        for each in batch:
            self._waited_ns += began_ns - each.since_ns
            self._longest_wait_ns = max(self._longest_wait_ns, began_ns - each.since_ns)

    def evidence(self) -> dict[str, Any]:
        works = sum(size * count for size, count in self._sizes.items())
        since_first_ns = 0 if self._first_ns is None else now_ns() - self._first_ns
        return {
            "recordings": works,
            "batches": self.batches,
            "batches_by_size": {str(size): count for size, count in sorted(self._sizes.items())},
            "batches_taken_apart": self.taken_apart,
            "padding_share": 1.0 - self._valid / self._padded if self._padded else 0.0,
            "mean_wait_s": self._waited_ns * 1e-9 / works if works else 0.0,
            "longest_wait_s": self._longest_wait_ns * 1e-9,
            "busy_share": self.busy_ns / since_first_ns if since_first_ns else 0.0,
        }
