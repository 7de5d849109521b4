"""Whisper Large v3 turbo: the encoder of Large v3 with four layers of decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from variants.models.whisper.architecture import LARGE_V3_TURBO
from variants.models.whisper.assemble import assemble, preload
from variants.models.whisper.options import WhisperOptions

if TYPE_CHECKING:
    from variants.models.options import ModelOptions
    from variants.models.whisper.model import AttentionModel

__all__ = ["Options", "build", "preload"]

Options = WhisperOptions


def build(options: ModelOptions) -> AttentionModel:
    """The model with synthetic weights or those that ``options.weights`` names."""
    return assemble(LARGE_V3_TURBO, options)
