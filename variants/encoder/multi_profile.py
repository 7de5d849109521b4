"""One TensorRT engine, one copy of the weights, several optimization profiles placed by the planner.

What one copy means depends on the release. The first two layers of the 0.6B encoder in fp16 have 110 MB of
weights: TensorRT-RTX 1.7.1 makes 115.7 MB of them with one profile and 129.3 MB with four, each weight in the
plan once; TensorRT 8.6.0 at level 2 made 110 MiB with one profile and 175 MiB with three.

A request takes the shortest profile that holds it. Contexts are made once, so that a change of profile
costs nothing at run time; changes are counted all the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from variants.encoder.options import MultiProfile
from variants.encoder.planner import AffineCost
from variants.encoder.shapes import ShapeGrid, make_grid
from variants.encoder.tensorrt.encoder import build_encoder, require

if TYPE_CHECKING:
    from harness.protocols import ShapePlan
    from variants.encoder.bucketed import BucketedEncoder
    from variants.models.types import TdtModel

NAME = "multi_profile"


def build(model: TdtModel, options: MultiProfile, plan: ShapePlan) -> BucketedEncoder:
    """Raises ``UnavailableError`` without a GPU or TensorRT, ``InvalidMeasurementError`` without parity."""
    require(NAME, model, options)
    return build_encoder(NAME, model, options, make_multi_grid(plan, options, model.hop_s), plan.progress)


def make_multi_grid(plan: ShapePlan, chosen: MultiProfile, hop_s: float) -> ShapeGrid:
    """The planned profiles: tuned for their maximum where requests are padded to it, else for the
    median of what falls into them."""
    pad = chosen.padding == "profile"
    grid = make_grid(
        plan,
        k=chosen.profiles,
        longest_s=chosen.longest_s,
        hop_s=hop_s,
        cost=AffineCost(),
        opt="max" if pad else "median",
    )
    return replace(grid, pad=pad)
