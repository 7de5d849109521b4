"""Weights of any origin, before they are placed on a device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from variants.models.parakeet import Modules, TdtArchitecture
from variants.models.types import Tokenizer


@dataclass(frozen=True, slots=True)
class Weights:
    """Modules in float32 on the CPU, and all else that comes with the weights."""

    modules: Modules
    tokenizer: Tokenizer
    durations: tuple[int, ...]
    max_symbols: int
    blank_id: int
    frame_s: float
    hop_s: float
    feature_bins: int
    provenance: dict[str, Any]


def with_architecture(
    modules: Modules, tokenizer: Tokenizer, architecture: TdtArchitecture, provenance: dict[str, Any]
) -> Weights:
    """``Weights`` of modules that ``build_modules(architecture)`` made."""
    return Weights(
        modules=modules,
        tokenizer=tokenizer,
        durations=architecture.durations,
        max_symbols=architecture.max_symbols,
        blank_id=architecture.blank_id,
        frame_s=architecture.frame_s,
        hop_s=architecture.hop_s,
        feature_bins=architecture.feature_bins,
        provenance=provenance,
    )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(files: Sequence[Path]) -> str:
    """Of one file its own; of several in order, one of theirs."""
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
