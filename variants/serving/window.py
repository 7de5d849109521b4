"""The window through which an encoder hears a live stream: see ``variants.serving.rolling``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.errors import UsageError
from harness.protocols.options import PositiveSeconds, Seconds, Share

_LENGTHS = ("left_context_s", "chunk_s", "right_context_s")


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When an utterance of a live stream is over, by a voice detector."""

    silence_s: Seconds = 0.0
    """After speech, which ends an utterance: its text is final at once, without its right context, and the
    next one begins anew. 0: nothing is detected, a stream is one utterance."""
    threshold: Share = 0.5
    """Probability of speech from which on somebody speaks."""


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """Seconds of audio, each a whole number of encoder frames: ``model.options`` of the configuration."""

    left_context_s: Seconds = 10.0
    """Streaming: audio before the chunk that the encoder sees again."""
    chunk_s: PositiveSeconds = 0.64
    """Streaming: audio decoded per step, a multiple of one encoder frame."""
    right_context_s: Seconds = 0.64
    """Streaming: audio after the chunk, which the text waits for."""
    method: Literal["window", "cached"] = "window"
    """Streaming: how the left context is heard. ``window``: it is encoded anew for each chunk, as offline.
    ``cached``: from what each layer keeps of it, an approximation that computes a chunk's own frames."""
    endpointing: Endpointing = field(default_factory=Endpointing)

    def in_samples(self, frame_samples: int, sample_rate: int) -> Contexts:
        """Raises ``UsageError`` for a length that is no whole number of encoder frames."""
        samples = {key: round(getattr(self, key) * sample_rate) for key in _LENGTHS}
        for key, count in samples.items():
            if count % frame_samples or (key == "chunk_s" and count == 0):
                raise UsageError(
                    f"model.options.{key}={getattr(self, key)} has to be a multiple of one encoder frame, "
                    f"{frame_samples / sample_rate:g} s"
                )
        if self.method == "cached" and self.left_context_s < self.chunk_s:
            raise UsageError(
                f"model.options.left_context_s={self.left_context_s} has to be at least "
                f"model.options.chunk_s={self.chunk_s} where model.options.method=cached"
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

    @property
    def window(self) -> int:
        """Samples of the longest window."""
        return self.left + self.chunk + self.right
