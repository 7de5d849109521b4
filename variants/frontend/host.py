"""The front end on the host, one request at a time: decode, denoise, vad, segment.

Decoding resamples block by block; what that took is booked as ``resample``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from harness.audio.decode import decode
from harness.audio.isolated import DecoderPool
from harness.audio.mono import Heard
from harness.audio.target import Target
from harness.protocols import Allocate, Audio, Evidence, Segment
from harness.spans import SpanRecorder
from variants.frontend.config import FrontendConfig, SegmentConfig
from variants.frontend.denoise import denoise
from variants.frontend.segment import segment
from variants.frontend.stages import run_stage
from variants.frontend.vad import SileroVad, all_speech, webrtc_vad

Stage = tuple[str, Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Chain:
    """A ``harness.protocols.Frontend``. Its stages keep nothing between calls: threads may share it."""

    stages: tuple[Stage, ...]

    def __call__(self, payload: bytes, spans: SpanRecorder) -> list[Segment]:
        """Each segment of speech; raises ``RequestError`` for a payload that cannot be decoded."""
        value: Any = payload
        for name, stage in self.stages:
            value = run_stage(name, stage, value, spans)
        segments: list[Segment] = value
        return segments


Options = FrontendConfig


def build(config: FrontendConfig) -> Chain:
    """The chain that ``config`` describes; a stage that is ``none`` is no stage at all.

    Raises ``UnavailableError`` where a detector's model is not installed.
    """
    stages: list[Stage] = [("decode", Decode(config))]
    if config.denoise == "webrtc":
        stages.append(("denoise", partial(denoise, level=config.denoise_level)))
    if config.vad == "none":
        stages.append(("segment", partial(_segment_all, config=config.segment)))
    else:
        stages.append(("vad", _detector(config)))
        stages.append(("segment", partial(segment, config=config.segment)))
    return Chain(tuple(stages))


class Decode:
    """The first stage, which counts whose decoding it was. Threads may share it."""

    def __init__(self, config: FrontendConfig) -> None:
        self._limits = config.limits
        self._target = Target(config.mix, config.sample_rate, config.resample_quality)
        self._pool = DecoderPool() if config.isolate_decoder else None
        self._lock = threading.Lock()
        self._decoders, self._left_to_pyav = Counter[str](), Counter[str]()

    def __call__(self, payload: bytes, allocate: Allocate = np.empty) -> Audio:
        return decode(
            payload, self._limits, self._target, pool=self._pool, allocate=allocate, told=self._count
        )

    def _count(self, heard: Heard) -> None:
        with self._lock:
            self._decoders[heard.decoder] += 1
            if heard.declined:
                self._left_to_pyav[heard.declined] += 1

    def evidence(self) -> Evidence:
        """Recordings by decoder, and why PyAV got those of a format that is another's."""
        with self._lock:
            return {"decoders": dict(self._decoders), "left_to_pyav": dict(self._left_to_pyav)}


def _detector(config: FrontendConfig) -> Callable[[Audio], Any]:
    if config.vad == "silero":
        return SileroVad()
    return partial(webrtc_vad, aggressiveness=config.vad_aggressiveness)


def _segment_all(audio: Audio, config: SegmentConfig, allocate: Allocate | None = None) -> list[Segment]:
    return segment(all_speech(audio), config, allocate)
