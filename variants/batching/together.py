"""Works that are computed together: recordings with recordings, and the next chunks of live streams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from harness.protocols import Evidence, Work
from harness.spans import SpanRecorder, now_ns
from variants.batching.bounds import Bounds, Waiting, choose, take
from variants.batching.counts import Counts
from variants.batching.live import LiveStreams
from variants.batching.types import Inference, open_pool
from variants.serving.streams import describe


class Kind(Protocol):
    """Works that can be put together."""

    @property
    def due(self) -> list[Waiting]:
        """Those that wait to be computed, oldest first; ``Together`` takes batches out of it."""
        ...

    @property
    def counts(self) -> Counts: ...

    def compute(self, batch: Sequence[Waiting], spans: SpanRecorder) -> None:
        """All of ``batch``, or none where it raises."""
        ...

    def tell(self, waiting: Waiting, error: str | None) -> None:
        """That it was computed, or that it could not be."""
        ...


class Recordings:
    """See ``Kind``."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self.due: list[Waiting] = []
        self.counts = Counts()

    def compute(self, batch: Sequence[Waiting], spans: SpanRecorder) -> None:
        found = self._inference.transcribe([each.work.segments for each in batch], spans)
        for each, transcript in zip(batch, found, strict=True):
            each.work.result = transcript

    def tell(self, waiting: Waiting, error: str | None) -> None:
        waiting.work.error = error
        waiting.work.done(waiting.work)


class Together:
    """See ``harness.protocols.Engine``.

    A batch that is not full waits for company until the oldest work has waited ``delay_s``, or until the
    engine has been free for so long: one that idles serves what comes at once. What live streams ask for
    that needs no computing is done before anything else.
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
        self._max_lag_ns = round(bounds.max_lag_s * 1e9)
        self._clock = clock
        self._recordings = Recordings(inference)
        self._live = LiveStreams(partial(open_pool, inference), bounds.max_streams)
        self._kinds: tuple[Kind, ...] = (self._recordings, self._live)
        self._free_since_ns = -self._delay_ns
        self._batch_ids = itertools.count(1)

    def submit(self, work: Work) -> None:
        waiting = Waiting.of(work, self._clock())
        if work.kind == "transcribe":
            self._recordings.due.append(waiting)
        else:
            self._live.submit(waiting)

    def step(self) -> bool:
        if self._live.has_arrivals:
            self._live.settle()
            return True
        self._live.end_late(self._clock() - self._max_lag_ns)
        due = [kind for kind in self._kinds if kind.due and self._due_in_ns(kind.due) <= 0]
        if not due:
            return False
        kind = min(due, key=lambda kind: kind.due[0].since_ns)
        self._serve(kind, take(kind.due, choose(kind.due, self._bounds).indices))
        self._free_since_ns = self._clock()
        return True

    def _serve(self, kind: Kind, batch: Sequence[Waiting]) -> None:
        """All at once; where that fails, one by one, so that each failure is its own work's."""
        began_ns = self._clock()
        recorder = SpanRecorder(batch[0].work.spans.marker)
        error = _error_of(kind, batch, recorder)
        ended_ns = self._clock()
        kind.counts.computed(began_ns, ended_ns)
        if error is not None and len(batch) > 1:
            kind.counts.taken_apart += 1
            for each in batch:
                self._serve(kind, [each])
            return
        kind.counts.add(batch, began_ns)
        batch_id = next(self._batch_ids)
        for each in batch:
            work = each.work
            work.batch_id, work.batch_size = batch_id, len(batch)
            # The batch's stages belong to each work in it, for their wall time.
            work.spans.add("batch", each.idle_from_ns, began_ns)
            work.spans.extend(recorder.spans)
            each.idle_from_ns = ended_ns
            kind.tell(each, error)

    @property
    def pending(self) -> int:
        return len(self._recordings.due) + self._live.pending

    @property
    def wants_work(self) -> bool:
        bounds = self._bounds
        streamed = max(bounds.max_pending, 2 * bounds.max_streams)
        return len(self._recordings.due) < bounds.max_pending and self._live.pending < streamed

    @property
    def due_in_s(self) -> float | None:
        if self._live.has_arrivals:
            return 0.0
        due_ns = [self._due_in_ns(kind.due) for kind in self._kinds if kind.due]
        return max(0.0, min(due_ns) * 1e-9) if due_ns else None

    def _due_in_ns(self, due: Sequence[Waiting]) -> int:
        if self._delay_ns == 0 or not self.wants_work or choose(due, self._bounds).full:
            return 0
        return min(due[0].since_ns, self._free_since_ns) + self._delay_ns - self._clock()

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self._inference.warm_up(lengths_s)

    def evidence(self) -> Evidence:
        batching = {
            "name": self._name,
            "stream_works": self._live.works,
            "streams": self._live.evidence(),
            **self._recordings.counts.evidence("recordings"),
        }
        return {**self._inference.evidence(), "batching": batching}


def _error_of(kind: Kind, batch: Sequence[Waiting], spans: SpanRecorder) -> str | None:
    try:
        kind.compute(batch, spans)
    except Exception as failure:  # an engine outlives whatever one work does to it
        return describe(failure)
    return None
