"""Live streams that are computed together, each in one of a fixed number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from harness.errors import RequestError
from harness.protocols import Evidence, Stream, Transcript
from harness.spans import SpanRecorder


class StreamPool(Protocol):
    """Room for live streams: whatever a slot needs is there from the beginning, and is used again.

    For one thread at a time. Nothing is computed but in ``step``.
    """

    @property
    def slots(self) -> int:
        """How many streams there may be at once."""
        ...

    def open(self) -> int:
        """The slot of a new stream, which has one: more than ``slots`` are the caller's to refuse."""
        ...

    def push(self, slot: int, samples: np.ndarray) -> int:
        """Take float32 ``[n]`` at the model's rate, as much as there is room for, or up to the end of an
        utterance; how many samples that was. Room is made by ``step``: there is some, or the slot is due."""
        ...

    def end(self, slot: int) -> None:
        """No more audio comes: what is left is the last chunk."""
        ...

    def window(self, slot: int) -> int:
        """Samples that the next chunk costs, its window's or its own; 0 where none is due yet."""
        ...

    def step(self, slots: Sequence[int], spans: SpanRecorder) -> None:
        """Compute the next chunk of each of these, all of which are due. A step that fails changes none."""
        ...

    def text(self, slot: int) -> str:
        """So far."""
        ...

    def transcript(self, slot: int) -> Transcript:
        """After ``end``, when nothing is due any more."""
        ...

    def close(self, slot: int) -> None:
        """The slot is free again, whatever its stream has come to."""
        ...

    def evidence(self) -> Evidence: ...


class OnlyStream:
    """``harness.protocols.Stream``: the one stream of a pool."""

    def __init__(self, pool: StreamPool) -> None:
        self._pool = pool
        self._slot = pool.open()
        self._committed = False

    def push(self, samples: np.ndarray) -> str | None:
        """Compute every chunk whose right context has arrived; the text so far if that changed it."""
        if self._committed:
            raise RequestError("the stream was committed and takes no more audio: open another one")
        before = self._pool.text(self._slot)
        taken = 0
        while True:
            taken += self._pool.push(self._slot, samples[taken:])
            self._compute()
            if taken == len(samples):
                break
        text = self._pool.text(self._slot)
        return text if text != before else None

    def commit(self) -> Transcript:
        """Compute what is left, as one chunk."""
        if not self._committed:
            self._committed = True
            self._pool.end(self._slot)
            self._compute()
        return self._pool.transcript(self._slot)

    def _compute(self) -> None:
        while self._pool.window(self._slot):
            self._pool.step((self._slot,), SpanRecorder())


class Apart:
    """``StreamPool`` of streams that have nothing in common: each computes when it is given something."""

    def __init__(self, open_stream: Callable[[], Stream], slots: int) -> None:
        self.slots = slots
        self._open_stream = open_stream
        self._streams: list[Stream | None] = [None] * slots
        self._texts = [""] * slots
        self._transcripts = [Transcript("")] * slots

    def open(self) -> int:
        slot = self._streams.index(None)
        self._streams[slot] = self._open_stream()
        self._texts[slot] = ""
        return slot

    def push(self, slot: int, samples: np.ndarray) -> int:
        self._texts[slot] = self._of(slot).push(samples) or self._texts[slot]
        return len(samples)

    def end(self, slot: int) -> None:
        self._transcripts[slot] = self._of(slot).commit()

    def window(self, slot: int) -> int:  # noqa: ARG002
        return 0

    def step(self, slots: Sequence[int], spans: SpanRecorder) -> None:
        """Nothing is ever left to compute."""

    def text(self, slot: int) -> str:
        return self._texts[slot]

    def transcript(self, slot: int) -> Transcript:
        return self._transcripts[slot]

    def close(self, slot: int) -> None:
        self._streams[slot] = None

    def evidence(self) -> Evidence:
        return {}

    def _of(self, slot: int) -> Stream:
        stream = self._streams[slot]
        if stream is None:
            raise ValueError(f"slot {slot} has no stream")
        return stream
