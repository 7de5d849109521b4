"""A Parakeet of seven million parameters: the same code paths in seconds, on any machine."""

from __future__ import annotations

from variants.models.assemble import assemble
from variants.models.options import ModelOptions
from variants.models.parakeet import PARAKEET_TINY, preload
from variants.models.types import TdtModel
from variants.serving.window import StreamingOptions

__all__ = ["build", "preload"]

Options = StreamingOptions


def build(options: ModelOptions) -> TdtModel:
    """The model with synthetic weights, the embedded trained ones, or those of a ``.nemo`` file."""
    return assemble(PARAKEET_TINY, options)
