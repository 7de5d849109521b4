"""Live streams by a rolling window over any encoder and decoder, many at a time.

An offline encoder attends to the whole of what it is given, so a stream gives it a window: audio that
was decoded already (left context), the chunk to decode now, and audio that follows (right context). Only
the chunk's states go to the decoder, whose state is carried from chunk to chunk. Normalization of features is
the window's: with contexts shorter than the utterance, the text may differ from the offline text. With
contexts at least as long, it is the same.

A step computes the next chunk of several streams at once. Windows grow at a stream's beginning and the last
may be short, so rows are ragged: what is beyond a row's own is masked, as in a batch of recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from harness.errors import UnavailableError
from harness.protocols import (
    Decoded,
    Decoder,
    Evidence,
    FeatureBatch,
    Hypothesis,
    Transcript,
)
from harness.spans import SpanRecorder
from variants.serving.chunks import ChunkEncoder, Chunks
from variants.serving.endpoints import Endpoints
from variants.serving.window import Contexts
from variants.upload import Upload


class RowStates(Protocol):
    """Where streams stand between two chunks, a row each."""

    def select(self, rows: torch.Tensor) -> Any:
        """A copy of these rows (int64 ``[B]``), in their order."""
        ...

    def assign(self, rows: torch.Tensor, states: Any) -> None:
        """Overwrite these rows by those of ``states``, in place."""
        ...


@runtime_checkable
class StreamDecoder(Decoder, Protocol):
    """A decoder whose ``Decoded.state`` are ``RowStates``."""

    def start(self, rows: int) -> RowStates:
        """Of so many streams that have heard nothing yet, in memory of their own."""
        ...


class LiveFeatures(Protocol):
    """See ``variants.models.feature_ring.FeatureRing``."""

    @property
    def device(self) -> torch.device: ...
    @property
    def hop(self) -> int: ...
    @property
    def before(self) -> int: ...
    def write(
        self,
        slots: torch.Tensor,
        first: torch.Tensor,
        counts: torch.Tensor,
        samples: torch.Tensor,
        ends: torch.Tensor,
    ) -> None: ...
    def windows(
        self, slots: torch.Tensor, first: torch.Tensor, counts: torch.Tensor, width: int
    ) -> torch.Tensor: ...


class Heard:
    """What was said in one stream so far: utterances that are over, and the tokens of the present one."""

    __slots__ = ("_text_of", "durations", "finished", "frames", "text", "text_before", "tokens")

    def __init__(self, text_of: Callable[[Sequence[int]], str]) -> None:
        self._text_of = text_of
        self.finished: tuple[Hypothesis, ...] = ()
        self.text_before = self.text = ""
        self._begin()

    def _begin(self) -> None:
        self.tokens: list[int] = []
        self.frames: list[int] = []
        self.durations: list[int] = []

    def append(self, found: Hypothesis, first_frame: int) -> None:
        if found.tokens:
            self.tokens += found.tokens
            self.frames += [first_frame + frame for frame in found.frames]
            self.durations += found.durations
            self.text = " ".join(filter(None, (self.text_before, self._text_of(self.tokens))))

    def end_utterance(self) -> None:
        self.finished, self.text_before = self.hypotheses, self.text
        self._begin()

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Of each utterance in which something was said; frames count from its beginning."""
        if self.finished and not self.tokens:
            return self.finished
        return (*self.finished, Hypothesis(tuple(self.tokens), tuple(self.frames), tuple(self.durations)))


class Incoming:
    """Audio of each stream that no frame of features has been made of yet, in memory that is there before.

    A row begins ``before`` samples before the centre of the stream's next frame.
    """

    def __init__(self, slots: int, capacity: int, before: int) -> None:
        self._samples = np.zeros((slots, before + capacity), np.float32)
        self._before = before
        self._held = np.zeros(slots, np.int64)

    def clear(self, slot: int) -> None:
        """Before a stream there is silence."""
        self._samples[slot, : self._before] = 0
        self._held[slot] = self._before

    def room(self, slot: int) -> int:
        return self._samples.shape[1] - int(self._held[slot])

    def take(self, slot: int, samples: np.ndarray) -> None:
        """No more than there is room for."""
        held = int(self._held[slot])
        self._samples[slot, held : held + len(samples)] = samples
        self._held[slot] = held + len(samples)

    def rows(self, slots: np.ndarray, width: int) -> list[np.ndarray]:
        """The first ``width`` samples of each; what is beyond those that it holds means nothing."""
        return [self._samples[slot, :width] for slot in slots]

    def drop(self, slot: int, count: int) -> None:
        held = int(self._held[slot])
        self._samples[slot, : held - count] = self._samples[slot, count:held]
        self._held[slot] = held - count


class RollingPool:
    """``variants.serving.pool.StreamPool``. Positions count samples from the beginning of each stream."""

    def __init__(
        self,
        encoder: ChunkEncoder,
        decoder: Decoder,
        features: LiveFeatures,
        text: Callable[[Sequence[int]], str],
        contexts: Contexts,
        slots: int,
        endpoints: Endpoints | None = None,
        synchronize: Callable[[], None] = lambda: None,
    ) -> None:
        """``features`` has room for ``slots`` windows; without ``endpoints`` a stream is one utterance.

        Raises ``UnavailableError`` for a decoder whose streams cannot be put together.
        """
        if not isinstance(decoder, StreamDecoder):
            raise UnavailableError(
                f"{type(decoder).__name__} keeps no state of live streams: set decoder=cpu_synced"
            )
        self.slots = slots
        self._encoder, self._decoder, self._features = encoder, decoder, features
        self._text_of, self._contexts, self._synchronize = text, contexts, synchronize
        self._endpoints = endpoints
        self._upload = Upload(features.device)
        with torch.inference_mode():
            self._states: RowStates = decoder.start(slots)
            self._start: RowStates = decoder.start(1)
        # A frame is made again for each window that it ends, and a chunk may come before it can be decoded.
        room = features.hop + 2 * contexts.chunk + contexts.right
        self._incoming = Incoming(slots, room, features.before)
        self._framed = np.zeros(slots, np.int64)  # frames that need not be made again
        self._decoded = np.zeros(slots, np.int64)
        self._heard = np.zeros(slots, np.int64)
        self._ended = np.zeros(slots, np.bool_)  # the utterance, or the stream
        self._said = [Heard(text) for _ in range(slots)]
        self._free = list(range(slots - 1, -1, -1))

    def open(self) -> int:
        slot = self._free.pop()
        if self._endpoints is not None:
            self._endpoints.clear(slot)
        self._begin(slot)
        return slot

    @torch.inference_mode()
    def _begin(self, slot: int) -> None:
        """A stream, or its next utterance, which knows nothing of those before."""
        for positions in (self._framed, self._decoded, self._heard, self._ended):
            positions[slot] = 0
        self._incoming.clear(slot)
        self._states.assign(self._index(np.array([slot])), self._start)

    def close(self, slot: int) -> None:
        self._said[slot] = Heard(self._text_of)
        self._free.append(slot)

    def push(self, slot: int, samples: np.ndarray) -> int:
        if self._ended[slot]:
            return 0
        samples = samples[: self._incoming.room(slot)]
        if self._endpoints is not None:
            heard, self._ended[slot] = self._endpoints.hear(slot, samples)
            samples = samples[:heard]
        self._incoming.take(slot, samples)
        self._heard[slot] += len(samples)
        self._end_utterance(slot)
        return len(samples)

    def end(self, slot: int) -> None:
        self._ended[slot] = True

    def window(self, slot: int) -> int:
        heard, decoded, contexts = int(self._heard[slot]), int(self._decoded[slot]), self._contexts
        left = min(decoded, contexts.left) if self._encoder.hears_again else 0
        ahead, hop = contexts.chunk + contexts.right, self._features.hop
        if heard - decoded >= ahead:
            return left + ahead
        has_more = self._ended[slot] and heard // hop > decoded // hop
        return left + heard - decoded if has_more else 0

    def text(self, slot: int) -> str:
        return self._said[slot].text

    def transcript(self, slot: int) -> Transcript:
        said = self._said[slot]
        return Transcript(said.text, said.hypotheses)

    def evidence(self) -> Evidence:
        ends = {} if self._endpoints is None else {"utterances_ended": self._endpoints.found}
        return {**self._encoder.evidence(), **ends}

    # ------------------------------------------------------------ a step

    @torch.inference_mode()
    def step(self, slots: Sequence[int], spans: SpanRecorder) -> None:
        rows = np.array(slots, np.int64)
        index = self._index(rows)
        chunks = Chunks(self._contexts, self._features.hop, self._decoded[rows], self._heard[rows])
        with spans.span("features"):
            windows = self._windows(rows, index, chunks)
        with spans.span("encoder"):
            states = self._encoder.encode(windows, chunks, index)
            # Without it the encoder's device time would be charged to the decoder, which waits for it.
            self._synchronize()
        with spans.span("decoder"):
            decoded = self._decoder.decode(states, self._states.select(index))
        self._states.assign(index, decoded.state)
        self._encoder.keep()
        with spans.span("text"):
            self._keep(rows, chunks, decoded)

    def _windows(self, rows: np.ndarray, index: torch.Tensor, chunks: Chunks) -> FeatureBatch:
        """Make the frames that are new, and show each row its window: ``[B, F, T]``."""
        features, hop = self._features, self._features.hop
        first, counts = self._framed[rows], chunks.end // hop - self._framed[rows]
        ends = features.before + chunks.end - first * hop
        samples = self._upload(self._incoming.rows(rows, self._width(counts)))
        features.write(
            index,
            self._index(first),
            self._index(counts),
            samples[:, : self._width(counts)],
            self._index(ends),
        )
        start, frames = chunks.start // hop, chunks.end // hop - chunks.start // hop
        values = features.windows(index, self._index(start), self._index(frames), int(frames.max()))
        return FeatureBatch(values.numpy() if values.device.type == "cpu" else values, frames)

    def _width(self, counts: np.ndarray) -> int:
        """Samples that so many frames hear."""
        return 2 * self._features.before - 1 + (int(counts.max()) - 1) * self._features.hop

    def _keep(self, rows: np.ndarray, chunks: Chunks, decoded: Decoded) -> None:
        """What was found, and what no later window needs."""
        for slot, found, frame in zip(rows, decoded.hypotheses, chunks.first, strict=True):
            self._said[slot].append(found, int(frame))
        hop = self._features.hop
        framed = chunks.end // hop - 1
        for slot, frames in zip(rows, framed - self._framed[rows], strict=True):
            self._incoming.drop(slot, int(frames) * hop)
        self._framed[rows] = framed
        self._decoded[rows] = chunks.decoded_after
        for slot in rows:
            self._end_utterance(slot)

    def _end_utterance(self, slot: int) -> None:
        """Where it is over and nothing is left to compute of it."""
        if self._endpoints is not None and self._ended[slot] and not self.window(slot):
            self._said[slot].end_utterance()
            self._begin(slot)

    def _index(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._features.device)
