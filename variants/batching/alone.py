"""One work at a time, in the order of submission: nothing waits to be batched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from harness.protocols import Evidence, Transcript, Work
from harness.protocols.options import NoOptions as Options
from variants.batching.types import Inference
from variants.serving.streams import StreamTable, describe

__all__ = ["Alone", "Options", "build"]


def build(inference: Inference, options: Options) -> Alone:  # noqa: ARG001
    return Alone(inference)


class Alone:
    """See ``harness.protocols.Engine``."""

    batches = False

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._streams = StreamTable(inference.open_stream)
        self._waiting: deque[Work] = deque()
        self._recordings = 0

    def submit(self, work: Work) -> None:
        self._waiting.append(work)

    def step(self) -> bool:
        if not self._waiting:
            return False
        work = self._waiting.popleft()
        try:
            work.result = self._do(work)
        except Exception as failure:  # an engine outlives whatever one work does to it
            work.error = describe(failure)
        work.done(work)
        return True

    def _do(self, work: Work) -> Transcript | str | None:
        if work.kind != "transcribe":
            return self._streams.do(work)
        self._recordings += 1
        (transcript,) = self._inference.transcribe([work.segments], work.spans)
        return transcript

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def wants_work(self) -> bool:
        return not self._waiting

    @property
    def due_in_s(self) -> float | None:
        return 0.0 if self._waiting else None

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        self._inference.warm_up(lengths_s)

    def evidence(self) -> Evidence:
        batching = {"name": "alone", "recordings": self._recordings, "stream_works": self._streams.works}
        return {**self._inference.evidence(), "batching": batching}
