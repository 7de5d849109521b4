"""Live streams by a rolling window over any encoder and decoder.

An offline encoder attends to the whole of what it is given, so a stream gives it a window: audio that
was decoded already (left context), the chunk to decode now, and audio that follows (right context). Only
the chunk's states go to the decoder, whose state is carried from chunk to chunk. Features are computed per
window, because their normalization is: with contexts shorter than the utterance, the text may differ
from the offline text. With contexts at least as long, it is the same.

It needs nothing of a model beyond the seams: an encoder that caches states between chunks would be
another ``Stream``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import RequestError, UsageError
from harness.protocols import (
    Decoder,
    Encoder,
    EncoderOutput,
    FeatureBatch,
    Features,
    Hypothesis,
    Segment,
    Transcript,
)
from harness.protocols.options import PositiveSeconds, Seconds


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """Seconds of audio, each a whole number of encoder frames: ``model.options`` of the configuration."""

    left_context_s: Seconds = 10.0
    """Streaming: audio before the chunk that the encoder sees again."""
    chunk_s: PositiveSeconds = 0.64
    """Streaming: audio decoded per step, a multiple of one encoder frame."""
    right_context_s: Seconds = 0.64
    """Streaming: audio after the chunk, which the text waits for."""

    def in_samples(self, frame_samples: int, sample_rate: int) -> Contexts:
        """Raises ``UsageError`` for a length that is no whole number of encoder frames."""
        samples = {key: round(getattr(self, key) * sample_rate) for key in self.__slots__}
        for key, count in samples.items():
            if count % frame_samples or (key == "chunk_s" and count == 0):
                raise UsageError(
                    f"model.options.{key}={getattr(self, key)} has to be a multiple of one encoder frame, "
                    f"{frame_samples / sample_rate:g} s"
                )
        return Contexts(
            samples["left_context_s"],
            samples["chunk_s"],
            samples["right_context_s"],
            frame_samples,
            sample_rate,
        )


@dataclass(frozen=True, slots=True)
class Contexts:
    """The window in samples, and the samples of one encoder frame."""

    left: int
    chunk: int
    right: int
    frame: int
    sample_rate: int


class RollingStream:
    """``harness.protocols.Stream``. Positions count samples from the beginning of the stream."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        features: Features,
        text: Callable[[tuple[int, ...]], str],
        contexts: Contexts,
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._features = features
        self._text_of = text
        self._contexts = contexts
        self._audio = np.zeros(0, np.float32)
        self._audio_start = 0
        self._decoded_until = 0
        self._decoder_state: Any = None
        self._hypothesis = Hypothesis(())
        self._text = ""
        self._committed = False

    def push(self, samples: np.ndarray) -> str | None:
        """Decode every chunk whose right context has arrived; the text so far if that changed it."""
        if self._committed:
            raise RequestError("the stream was committed and takes no more audio: open another one")
        self._audio = np.concatenate((self._audio, samples.astype(np.float32, copy=False)))
        before = self._text
        contexts = self._contexts
        while self._end - self._decoded_until >= contexts.chunk + contexts.right:
            chunk_end = self._decoded_until + contexts.chunk
            self._decode(chunk_end, window_end=chunk_end + contexts.right)
        return self._text if self._text != before else None

    def commit(self) -> Transcript:
        """Decode what is left, as one chunk."""
        if not self._committed:
            self._committed = True
            self._decode(self._end, window_end=self._end)
        return Transcript(self._text, (self._hypothesis,))

    @property
    def _end(self) -> int:
        return self._audio_start + len(self._audio)

    def _decode(self, chunk_end: int, window_end: int) -> None:
        """Decode ``[decoded_until, chunk_end)`` seen in its window, and forget what no window needs."""
        window_start = max(0, self._decoded_until - self._contexts.left)
        window = self._audio[window_start - self._audio_start : window_end - self._audio_start]
        if self._features.frames(len(window)):
            frame = self._contexts.frame
            first = (self._decoded_until - window_start) // frame
            last = None if chunk_end == window_end else (chunk_end - window_start) // frame
            features = self._features([Segment(window, self._contexts.sample_rate, 0.0)])
            self._append(self._chunk_states(features, first, last))
        self._decoded_until = chunk_end
        keep = max(0, chunk_end - self._contexts.left)
        self._audio = self._audio[keep - self._audio_start :]
        self._audio_start = keep

    def _chunk_states(self, features: FeatureBatch, first: int, last: int | None) -> EncoderOutput:
        """Encode a window ``[1, F, T]`` and cut the chunk's frames out of it."""
        encoded = self._encoder.encode(features)
        last = int(encoded.lengths[0]) if last is None else last
        count = max(0, last - first)
        return EncoderOutput(encoded.values[:, first : first + count], encoded.lengths.new_tensor([count]))

    def _append(self, states: EncoderOutput) -> None:
        decoded = self._decoder.decode(states, self._decoder_state)
        self._decoder_state = decoded.state
        found, before = decoded.hypotheses[0], self._hypothesis
        if not found.tokens:
            return
        first_frame = self._decoded_until // self._contexts.frame
        self._hypothesis = Hypothesis(
            before.tokens + found.tokens,
            before.frames + tuple(first_frame + frame for frame in found.frames),
            before.durations + found.durations,
        )
        self._text = self._text_of(self._hypothesis.tokens)
