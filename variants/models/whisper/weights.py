"""Weights of any origin, before they are placed on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from variants.models.whisper.architecture import WhisperArchitecture


@dataclass(frozen=True, slots=True)
class WhisperWeights:
    """openai-whisper's modules in float32 on the CPU, their sizes, and what identifies the numbers."""

    modules: Any
    size: WhisperArchitecture
    provenance: dict[str, Any]
