"""A folder of specifications whose sets render in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.paths import datasets_dir

TINY = {
    "description": "Three short clips.",
    "items": 3,
    "seed": 1,
    "bucket_edges_s": [1, 2, 5],
    "lengths": {"distribution": "uniform", "min_s": 0.5, "max_s": 2.5},
    "containers": {"wav": 1, "flac": 1, "ogg": 1},
    "sample_rates": {16000: 1},
    "channels": {1: 1},
    "snr_db": [10, 30],
    "rt60_s": [0.1, 0.3],
    "speech_ratio": [0.6, 0.9],
    "text": "voice_agent",
    "voices": "all",
    "speakers": 1,
}

WriteSpec = Callable[..., Path]


@pytest.fixture
def specs_dir(tmp_path: Path) -> Path:
    """An empty folder of specifications with the project's own texts."""
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "texts").symlink_to(datasets_dir() / "texts")
    return folder


@pytest.fixture
def write_spec(specs_dir: Path) -> WriteSpec:
    """``write_spec(name, **changes)``: the tiny specification with some keys changed or one left out."""

    def write(name: str = "tiny", without: str = "", **changes: object) -> Path:
        content = {key: value for key, value in {**TINY, **changes}.items() if key != without}
        path = specs_dir / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write
