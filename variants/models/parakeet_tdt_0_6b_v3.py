"""Parakeet-TDT 0.6B v3 at its exact configuration."""

from __future__ import annotations

from variants.models.assemble import assemble
from variants.models.options import ModelOptions
from variants.models.parakeet import PARAKEET_TDT_0_6B_V3, PARAKEET_TDT_0_6B_V3_PARAMETERS, preload
from variants.models.types import TdtModel
from variants.serving.window import StreamingOptions

__all__ = ["build", "preload"]

Options = StreamingOptions


def build(options: ModelOptions) -> TdtModel:
    """The model with synthetic weights or those of a ``.nemo`` file; its size is checked."""
    return assemble(PARAKEET_TDT_0_6B_V3, options, PARAKEET_TDT_0_6B_V3_PARAMETERS)
