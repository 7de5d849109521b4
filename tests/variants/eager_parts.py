"""A model through the eager encoder and the host-driven decoder: what others are held to."""

from __future__ import annotations

from harness.protocols import ShapePlan
from harness.protocols.options import NoOptions
from variants.decoder import cpu_synced
from variants.encoder import eager
from variants.models.types import TdtModel
from variants.serving.inference import EncoderDecoder


def eager_parts(model: TdtModel, max_batch: int = 4) -> EncoderDecoder:
    plan = ShapePlan((5.0,), max_batch)
    none = NoOptions()
    return EncoderDecoder(model, eager.build(model, none, plan), cpu_synced.build(model, none, plan), plan)
