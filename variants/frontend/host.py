"""The front end on the host, one request at a time: decode, resample, denoise, vad, segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.audio.decode import decode
from harness.audio.limits import Limits
from harness.audio.resample import resample
from harness.protocols import Allocate, Audio, Segment
from harness.spans import SpanRecorder
from variants.frontend.config import FrontendConfig, SegmentConfig
from variants.frontend.denoise import denoise
from variants.frontend.segment import segment
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
            with spans.span(name):
                value = stage(value)
        segments: list[Segment] = value
        return segments


Options = FrontendConfig


def build(config: FrontendConfig) -> Chain:
    """The chain that ``config`` describes; a stage that is ``none`` is no stage at all.

    Raises ``UnavailableError`` where a detector's model is not installed.
    """
    stages: list[Stage] = [
        ("decode", partial(decode, limits=Limits(max_audio_s=config.max_audio_s))),
        ("resample", partial(resample, sample_rate=config.sample_rate, quality=config.resample_quality)),
    ]
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
