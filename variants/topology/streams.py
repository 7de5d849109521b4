"""The live streams of one engine, by id; whoever owns the engine's thread owns this too."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.audio.pcm import refuse_unusable
from harness.errors import HarnessError, RequestError
from harness.protocols import Engine, Stream, Transcript

STREAM_RATE = 16_000  # of live audio, in Hz


def describe(failure: BaseException) -> str:
    """What a client is told: our own errors speak for themselves, others are marked as internal."""
    if isinstance(failure, HarnessError):
        return str(failure)
    return f"internal: {type(failure).__name__}: {failure}"


class StreamTable:
    """Raises ``RequestError`` for an id that is not open (or is, where it must not be)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._streams: dict[int, Stream] = {}
        self.jobs = 0

    def work(self, kind: str, stream_id: int, value: Any) -> str | Transcript | None:
        """Do the job of ``kind`` on a stream. A stream that fails is closed."""
        self.jobs += 1
        try:
            return getattr(self, _METHODS[kind])(stream_id, value)  # type: ignore[no-any-return]
        except RequestError:
            raise
        except Exception:
            self._streams.pop(stream_id, None)
            raise

    def _open(self, stream_id: int, _value: object) -> None:
        if stream_id in self._streams:
            raise RequestError(f"stream {stream_id} is open already")
        self._streams[stream_id] = self._engine.open_stream()

    def _push(self, stream_id: int, samples: np.ndarray) -> str | None:
        stream = self._find(stream_id)
        try:
            refuse_unusable(samples, STREAM_RATE, what="stream's chunk")
        except RequestError:
            del self._streams[stream_id]
            raise
        return stream.push(samples)

    def _commit(self, stream_id: int, _value: object) -> Transcript:
        stream = self._find(stream_id)
        del self._streams[stream_id]
        return stream.commit()

    def _abandon(self, stream_id: int, _value: object) -> None:
        self._streams.pop(stream_id, None)

    def _find(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise RequestError(f"no open stream {stream_id}: it was never opened, has failed or was lost")
        return stream


_METHODS = {"open": "_open", "push": "_push", "commit": "_commit", "abandon": "_abandon"}
