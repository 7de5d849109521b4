"""The live streams of one engine, by id."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.audio.pcm import refuse_unusable
from harness.errors import HarnessError, RequestError
from harness.protocols import Stream, Transcript, Work

STREAM_RATE = 16_000  # of live audio, in Hz
NO_FREE_SLOT = "no free slot for another live stream"
"""How the error of a stream begins that was refused and may be tried again."""


def describe(failure: BaseException) -> str:
    """What a client is told: our own errors speak for themselves, others are marked as internal."""
    if isinstance(failure, HarnessError):
        return str(failure)
    return f"internal: {type(failure).__name__}: {failure}"


def already_open(stream_id: int) -> RequestError:
    return RequestError(f"stream {stream_id} is open already")


def not_open(stream_id: int) -> RequestError:
    return RequestError(f"no open stream {stream_id}: it was never opened, has failed or was lost")


def no_free_slot(slots: int) -> RequestError:
    return RequestError(
        f"{NO_FREE_SLOT}: all {slots} are taken; come back later, or set batching.options.max_streams"
    )


def too_late() -> RequestError:
    return RequestError(
        "the stream is too far behind its audio (batching.options.max_lag_s): open fewer streams, or set "
        "batching.options.max_streams to what the server carries"
    )


class StreamTable:
    """Raises ``RequestError`` for an id that is not open (or is, where it must not be)."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self._open_stream = open_stream
        self._streams: dict[int, Stream] = {}
        self.works = 0

    def do(self, work: Work) -> str | Transcript | None:
        """What the stream answers. One that fails is closed."""
        self.works += 1
        try:
            return self._do(work)
        except RequestError:
            raise
        except Exception:
            self._streams.pop(work.stream_id, None)
            raise

    def _do(self, work: Work) -> str | Transcript | None:
        kind, stream_id = work.kind, work.stream_id
        if kind == "push":
            if work.samples is None:
                raise RequestError(f"stream {stream_id} was given no samples")
            stream = self._find(stream_id)
            self._refuse_unusable(stream_id, work.samples)
            return stream.push(work.samples)
        if kind == "open":
            if stream_id in self._streams:
                raise already_open(stream_id)
            self._streams[stream_id] = self._open_stream()
        elif kind == "commit":
            stream = self._find(stream_id)
            del self._streams[stream_id]
            return stream.commit()
        else:
            self._streams.pop(stream_id, None)
        return None

    def _refuse_unusable(self, stream_id: int, samples: np.ndarray) -> None:
        """A sample that is no number would be heard as anything; it ends its stream."""
        try:
            refuse_unusable(samples, STREAM_RATE, what="stream's chunk")
        except RequestError:
            del self._streams[stream_id]
            raise

    def _find(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise not_open(stream_id)
        return stream
