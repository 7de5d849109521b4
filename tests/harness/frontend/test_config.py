"""Configuration: wrong values are refused where they enter, by the name of their key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException

from harness.errors import UsageError
from harness.frontend.config import FrontendConfig, SegmentConfig, frontend_config, frontend_schema

LEAVES = sorted(Path("conf/frontend").resolve().glob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vda": "silero"}, r"frontend\.vda is not a key; the keys of frontend are sample_rate, "),
        ({"segment": {"tresh": 1}}, r"frontend\.segment\.tresh is not a key"),
        ({"vad": "whisper"}, r"frontend\.vad=whisper must be one of none, webrtc, silero"),
        ({"denoise": "rnnoise"}, r"frontend\.denoise=rnnoise must be one of none, webrtc"),
        ({"resample_quality": "best"}, r"frontend\.resample_quality=best must be one of QQ, "),
        ({"segment": {"threshold": 0}}, r"frontend\.segment\.threshold=0\.0 must be above 0"),
        (
            {"segment": {"hysteresis": 0.3}},
            r"frontend\.segment\.hysteresis=0\.3 must be below segment\.threshold",
        ),
        ({"segment": {"max_segment_s": 0.1}}, r"frontend\.segment\.max_segment_s=0\.1 must be at least"),
        ({"segment": {"padding_s": -1}}, r"frontend\.segment\.padding_s=-1\.0 must be zero or more"),
        ({"features": {"n_fft": 256}}, r"frontend\.features\.n_fft=256 must be at least the window \(400\)"),
        ({"features": {"normalize": "all"}}, r"frontend\.features\.normalize=all must be one of"),
        ({"max_audio_s": "long"}, r"frontend\.max_audio_s='long' must be of type float"),
        ({"denoise_level": True}, r"frontend\.denoise_level=True must be of type int"),
        ({"segment": 3}, r"frontend\.segment=3 must be of type SegmentConfig"),
        (
            {"sample_rate": 8000},
            r"frontend\.vad=silero works at 16000 Hz, not 8000: set frontend\.sample_rate=16000",
        ),
        ({"sample_rate": 24000, "vad": "webrtc"}, r"frontend\.vad=webrtc works at .* not 24000"),
        (
            {"sample_rate": 8000, "vad": "none", "denoise": "webrtc"},
            r"frontend\.denoise=webrtc works at 16000 Hz",
        ),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        frontend_config(options)


def test_nothing_said_is_the_default() -> None:
    assert frontend_config({}) == FrontendConfig()


def test_what_is_said_is_kept_and_the_rest_is_default() -> None:
    config = frontend_config({"vad": "webrtc", "segment": {"min_silence_s": 1}})
    assert config == FrontendConfig(vad="webrtc", segment=SegmentConfig(min_silence_s=1.0))


def test_the_classes_are_a_structured_schema() -> None:
    store = ConfigStore.instance()
    store.store(name="frontend_schema_under_test", node={"frontend": frontend_schema()})
    overrides = ["frontend.vad=webrtc", "frontend.segment.padding_s=1"]
    with initialize(version_base=None):
        job = compose("frontend_schema_under_test", overrides)
        with pytest.raises(ConfigCompositionException):
            compose("frontend_schema_under_test", ["frontend.segment.padding_s=wide"])
    expected = FrontendConfig(vad="webrtc", segment=SegmentConfig(padding_s=1.0))
    assert frontend_config(job.frontend) == expected


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda path: path.stem)
def test_every_leaf_names_itself_and_every_knob(leaf: Path) -> None:
    content = yaml.safe_load(leaf.read_text())
    assert content["name"] == leaf.stem
    frontend_config(content["options"])
    assert set(content["options"]) == set(frontend_config({}).__dataclass_fields__)


def test_the_leaves_are_there() -> None:
    assert {leaf.stem for leaf in LEAVES} == {"silero", "webrtc", "whole"}
