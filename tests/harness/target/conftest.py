"""What the tests of targets share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from variants.topology.warmup import tone_wav


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings whose transcript is what the servers here say of everything."""
    folder = tmp_path_factory.mktemp("set")
    lines = []
    for n in range(12):
        (folder / f"{n}.wav").write_bytes(tone_wav(0.5 + 0.01 * n))
        lines.append(json.dumps({"audio_filepath": f"{n}.wav", "text": "one two three four five"}))
    path = folder / "set.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
