"""Configuration: wrong values are refused where they enter, by the name of their key."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.load import compose_run
from harness.errors import UsageError
from harness.protocols.options import plain
from variants.frontend.config import FrontendConfig, SegmentConfig


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (FrontendConfig, {"vad": "whisper"}, r"frontend\.vad=whisper must be one of none, webrtc, silero"),
        (FrontendConfig, {"denoise": "rnnoise"}, r"frontend\.denoise=rnnoise must be one of none, webrtc"),
        (FrontendConfig, {"denoise_level": 5}, r"frontend\.denoise_level=5 must be from 0 to 4"),
        (FrontendConfig, {"vad_aggressiveness": 4}, r"frontend\.vad_aggressiveness=4 must be from 0 to 3"),
        (
            FrontendConfig,
            {"resample_quality": "best"},
            r"frontend\.resample_quality=best must be one of QQ, ",
        ),
        (FrontendConfig, {"max_audio_s": 0.0}, r"frontend\.max_audio_s=0\.0 must be a positive number"),
        (FrontendConfig, {"mix": "both"}, r"frontend\.mix=both must be one of mean, loudest, left, right"),
        (FrontendConfig, {"max_bytes": 0}, r"frontend\.max_bytes=0 must be a positive number"),
        (FrontendConfig, {"max_channels": 65}, r"frontend\.max_channels=65 must be from 1 to 64"),
        (FrontendConfig, {"max_decode_s": 0.0}, r"frontend\.max_decode_s=0\.0 must be a positive number"),
        (FrontendConfig, {"min_sample_rate": 0}, r"frontend\.min_sample_rate=0 must be above 0"),
        (
            FrontendConfig,
            {"max_sample_rate": 2000},
            r"frontend\.min_sample_rate=4000 must be .* at most frontend\.max_sample_rate",
        ),
        (FrontendConfig, {"sample_rate": 0}, r"frontend\.sample_rate=0 must be a positive rate"),
        (
            FrontendConfig,
            {"sample_rate": 8000},
            r"vad=silero works at 16000 Hz, not 8000: set frontend\.sample_rate",
        ),
        (
            FrontendConfig,
            {"sample_rate": 24000, "vad": "webrtc"},
            r"frontend\.vad=webrtc works at .* not 24000",
        ),
        (
            FrontendConfig,
            {"sample_rate": 8000, "vad": "none", "denoise": "webrtc"},
            r"frontend\.denoise=webrtc works at 16000 Hz, not 8000",
        ),
        (SegmentConfig, {"threshold": 0.0}, r"frontend\.segment\.threshold=0\.0 must be above 0"),
        (
            SegmentConfig,
            {"hysteresis": 0.3},
            r"frontend\.segment\.hysteresis=0\.3 must be below segment\.threshold",
        ),
        (SegmentConfig, {"max_segment_s": 0.1}, r"frontend\.segment\.max_segment_s=0\.1 must be at least"),
        (SegmentConfig, {"padding_s": -1.0}, r"frontend\.segment\.padding_s=-1\.0 must be zero or more"),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        part(**values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frontend.vad=whisper", r"frontend\.vad=whisper must be one of"),
        ("frontend.vda=silero", "vda"),
        ("frontend.segment.padding_s=wide", "wide"),
        ("frontend=rnnoise", "rnnoise"),
    ],
)
def test_the_command_line_refuses_what_the_front_end_cannot_do(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose_run([override])


@pytest.mark.parametrize(
    ("choice", "denoise", "vad"),
    [
        ("default", "webrtc", "silero"),
        ("silero", "none", "silero"),
        ("webrtc", "webrtc", "webrtc"),
        ("whole", "none", "none"),
    ],
)
def test_a_choice_differs_from_the_defaults_in_what_it_names_alone(
    choice: str, denoise: str, vad: str
) -> None:
    config = compose_run([f"frontend={choice}"]).frontend
    assert config == {"name": "host", **plain(FrontendConfig(denoise=denoise, vad=vad))}


def test_overrides_reach_every_level() -> None:
    config = compose_run(
        ["frontend=whole", "frontend.segment.padding_s=1", "frontend.denoise_level=3"]
    ).frontend
    assert (config["segment"]["padding_s"], config["denoise_level"]) == (1.0, 3)
