"""The front end on the host, one request at a time: decode, denoise, vad, segment.

Decoding resamples block by block; what that took is booked as ``resample``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.audio.decode import decode
from harness.audio.isolated import DecoderPool
from harness.audio.target import Target
from harness.protocols import Allocate, Audio, Segment
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
    target = Target(config.mix, config.sample_rate, config.resample_quality)
    pool = DecoderPool() if config.isolate_decoder else None
    stages: list[Stage] = [("decode", partial(decode, limits=config.limits, target=target, pool=pool))]
    if config.denoise == "webrtc":
        stages.append(("denoise", partial(denoise, level=config.denoise_level)))
    if config.vad == "none":
        stages.append(("segment", partial(_segment_all, config=config.segment)))
    else:
        stages.append(("vad", _detector(config)))
        stages.append(("segment", partial(segment, config=config.segment)))
    return Chain(tuple(stages))


def _detector(config: FrontendConfig) -> Callable[[Audio], Any]:
    if config.vad == "silero":
        return SileroVad()
    return partial(webrtc_vad, aggressiveness=config.vad_aggressiveness)


def _segment_all(audio: Audio, config: SegmentConfig, allocate: Allocate | None = None) -> list[Segment]:
    return segment(all_speech(audio), config, allocate)
