"""An engine of known cost that answers a checksum of what it was given.

It takes the model out of the measurement: what is left is the path around it, and two cores can
drive thousands of connections. The text is a CRC-32 and a count of the values, in order, so a byte
that was lost, repeated or reordered anywhere on the path changes it. No torch.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from harness.protocols import Evidence, Hypothesis, Segment, Stream, TextSegment, Transcript
from harness.protocols.options import Positive, Seconds
from harness.spans import SpanRecorder

_SMALLEST_SLEEP_S = 0.001


@dataclass(frozen=True, slots=True)
class Options:
    """The stated service time."""

    per_request_s: Seconds = 0.0
    """Service time of a request's end."""
    per_audio_s: Seconds = 0.0
    """Service time of one second of audio."""
    method: Literal["sleep", "spin"] = "sleep"
    """``sleep`` leaves the core free, as a GPU does; ``spin`` holds it, as a CPU engine does."""
    partial_every_s: Seconds = 1.0
    """Audio between two changes of a live stream's text; 0 never changes it before the end."""
    sample_rate: Positive = 16_000
    """Of live streams."""


class HasOptions(Protocol):
    """The part of ``ModelOptions`` that this choice reads."""

    @property
    def options(self) -> Options: ...


def build(options: HasOptions) -> FixedCostEngine:
    return FixedCostEngine(options.options)


@dataclass(frozen=True, slots=True)
class Checksum:
    """CRC-32 of float32 values in order, and how many there were. Feeding pieces gives the same."""

    crc: int = 0
    count: int = 0

    def updated(self, values: np.ndarray) -> Checksum:
        values = np.ascontiguousarray(values, dtype=np.float32)
        return Checksum(zlib.crc32(values.data, self.crc), self.count + values.size)

    @property
    def text(self) -> str:
        return f"{self.crc:08x} {self.count}"

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(self.crc.to_bytes(4, "big"))


class Debt:
    """Service time that is owed, paid in pieces that a clock can measure.

    Thousands of pushes per second owe microseconds each, and a sleep of microseconds takes longer
    than it says. What a payment overshoots is credited to the next.
    """

    def __init__(self, method: str) -> None:
        self._spin = method == "spin"
        self._owed_s = 0.0
        self.paid_s = 0.0

    def charge(self, seconds: float) -> None:
        """Owe ``seconds`` and pay if enough has come together."""
        self._owed_s += seconds
        if self._owed_s >= _SMALLEST_SLEEP_S:
            started = time.perf_counter()
            self._pay(started + self._owed_s)
            took = time.perf_counter() - started
            self._owed_s -= took
            self.paid_s += took

    def _pay(self, until: float) -> None:
        if self._spin:
            while time.perf_counter() < until:
                pass
        else:
            time.sleep(max(0.0, until - time.perf_counter()))


class FixedCostEngine:
    """See ``variants.batching.types.Inference``."""

    def __init__(self, cost: Options) -> None:
        self._cost = cost
        self._debt = Debt(cost.method)
        self._requests = 0
        self._streams = 0
        self._audio_s = 0.0

    def transcribe(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> list[Transcript]:
        """Text: the checksum of every segment's samples in order; tokens: each segment's own."""
        audio_s = sum(len(each.samples) / each.sample_rate for segments in recordings for each in segments)
        with spans.span("encoder"):
            self.serve(audio_s, requests=len(recordings))
        with spans.span("decoder"):
            return [_checked(segments) for segments in recordings]

    def open_stream(self) -> Stream:
        self._streams += 1
        return FixedCostStream(self, self._cost)

    def serve(self, audio_s: float, requests: int = 0) -> None:
        """Spend the service time of ``audio_s`` seconds and of the end of ``requests`` requests."""
        self._requests += requests
        self._audio_s += audio_s
        self._debt.charge(audio_s * self._cost.per_audio_s + requests * self._cost.per_request_s)

    def warm_up(self, lengths_s: Iterable[float]) -> None:
        """Nothing to warm up: no shape costs more the first time."""

    def evidence(self) -> Evidence:
        return {
            "model": {"name": "fixed_cost", "weights_hash": "none"},
            "requests": self._requests,
            "streams": self._streams,
            "audio_s": self._audio_s,
            "service_s": self._debt.paid_s,
        }


def _checked(segments: Sequence[Segment]) -> Transcript:
    whole = Checksum()
    for segment in segments:
        whole = whole.updated(segment.samples)
    each = [Checksum().updated(segment.samples) for segment in segments]
    return Transcript(
        whole.text if segments else "",
        tuple(Hypothesis(checksum.tokens) for checksum in each),
        tuple(TextSegment(*s.place, checksum.text) for s, checksum in zip(segments, each, strict=True)),
    )


class FixedCostStream:
    """See ``harness.protocols.Stream``."""

    def __init__(self, engine: FixedCostEngine, cost: Options) -> None:
        self._engine = engine
        self._rate = cost.sample_rate
        self._samples_per_text = round(cost.partial_every_s * cost.sample_rate)
        self._checksum = Checksum()
        self._texts = 0

    def push(self, samples: np.ndarray) -> str | None:
        self._checksum = self._checksum.updated(samples)
        self._engine.serve(len(samples) / self._rate)
        if not self._samples_per_text or self._checksum.count // self._samples_per_text == self._texts:
            return None
        self._texts = self._checksum.count // self._samples_per_text
        return self._checksum.text

    def commit(self) -> Transcript:
        self._engine.serve(0.0, requests=1)
        return Transcript(self._checksum.text, (Hypothesis(self._checksum.tokens),))
