"""An engine asked for one thing at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from harness.errors import HarnessError
from harness.protocols import Engine, Segment, Transcript, Work, WorkKind
from harness.spans import SpanRecorder


def finish(engine: Engine, work: Work) -> Work:
    """Submit ``work`` and step until it is done: what a caller does that has the engine to itself."""
    engine.submit(work)
    while engine.step():
        pass
    return work


def transcribe(engine: Engine, segments: Sequence[Segment], spans: SpanRecorder) -> Transcript:
    """The transcript of one recording. Raises ``HarnessError`` with the work's error."""
    work = finish(engine, Work("transcribe", ignore, spans, segments))
    if work.error is not None:
        raise HarnessError(work.error)
    return cast(Transcript, work.result)


def hear(engine: Engine, *chunks: np.ndarray, stream_id: int = 1) -> Transcript:
    """The final transcript of a stream that is given ``chunks``. Raises ``HarnessError``."""

    def do(kind: WorkKind, samples: np.ndarray | None = None) -> Work:
        work = finish(engine, Work(kind, ignore, SpanRecorder(), stream_id=stream_id, samples=samples))
        if work.error is not None:
            raise HarnessError(work.error)
        return work

    do("open")
    for chunk in chunks:
        do("push", chunk)
    return cast(Transcript, do("commit").result)


def ignore(_work: Work) -> None:
    """The ``done`` of a work whose caller waits for it, and so has it."""
