"""Every size of a Whisper, and its modules from openai-whisper's own code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from harness.errors import HarnessError, UnavailableError, UsageError
from variants.models.parakeet import random_initialization


@dataclass(frozen=True, slots=True)
class WhisperArchitecture:
    """Fields are named as in openai-whisper's ``ModelDimensions``. A text vocabulary of 51,864 is English
    alone; larger ones have a token for each language."""

    n_mels: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_audio_ctx: int = 1500
    n_text_ctx: int = 448


LARGE_V3 = WhisperArchitecture(
    n_mels=128,
    n_audio_state=1280,
    n_audio_head=20,
    n_audio_layer=32,
    n_vocab=51_866,
    n_text_state=1280,
    n_text_head=20,
    n_text_layer=32,
)
LARGE_V3_TURBO = WhisperArchitecture(
    n_mels=128,
    n_audio_state=1280,
    n_audio_head=20,
    n_audio_layer=32,
    n_vocab=51_866,
    n_text_state=1280,
    n_text_head=20,
    n_text_layer=4,
)
BASE = WhisperArchitecture(
    n_mels=80,
    n_audio_state=512,
    n_audio_head=8,
    n_audio_layer=6,
    n_vocab=51_865,
    n_text_state=512,
    n_text_head=8,
    n_text_layer=6,
)
TINY_EN = WhisperArchitecture(
    n_mels=80,
    n_audio_state=384,
    n_audio_head=6,
    n_audio_layer=4,
    n_vocab=51_864,
    n_text_state=384,
    n_text_head=6,
    n_text_layer=4,
)

PARAMETERS = MappingProxyType(
    {LARGE_V3: 1_541_570_560, LARGE_V3_TURBO: 806_958_080, BASE: 71_825_920, TINY_EN: 37_184_256}
)
"""What each architecture has to count, the encoder's fixed table of positions not among them."""


def build_modules(architecture: WhisperArchitecture, *, initialize: bool = True) -> Any:
    """openai-whisper's ``Whisper`` in float32 on the CPU. ``initialize=False``: the caller fills every
    parameter.

    Raises ``HarnessError`` where the installed openai-whisper builds another model, ``UnavailableError``
    where there is none.
    """
    model = openai_whisper("model")
    with random_initialization(initialize):
        modules = model.Whisper(model.ModelDimensions(**asdict(architecture))).eval()
    expected = PARAMETERS.get(architecture)
    found = sum(parameter.numel() for parameter in modules.parameters())
    if expected not in (None, found):
        raise HarnessError(
            f"the architecture has {found:,} parameters, not {expected:,}: the installed openai-whisper "
            "builds another model; install the version pinned in the constraints file"
        )
    return modules


def keep_layers(modules: Any, layers: int | None, name: str) -> dict[str, int]:
    """Cut the encoder to its first ``layers`` (None: leave it whole); what the provenance says of it."""
    depth = len(modules.encoder.blocks)
    if layers is None:
        return {}
    if not 1 <= layers <= depth:
        raise UsageError(f"model.layers={layers}: the encoder of {name} has {depth}; choose 1 to {depth}")
    modules.encoder.blocks = modules.encoder.blocks[:layers]
    return {"layers": layers, "of_layers": depth}


def openai_whisper(module: str) -> Any:
    """A module of openai-whisper. Raises ``UnavailableError`` with the remedy where it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"whisper.{module}")
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"Whisper needs the package openai-whisper ({error.name!r} is missing): "
            "pip install 'speech-serving-bench[whisper]'"
        ) from error
