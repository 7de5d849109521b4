"""One TensorRT engine, one copy of the weights, several optimization profiles placed by the planner.

A request takes the shortest profile that holds it. Contexts are made once, so that a change of profile
costs nothing at run time; changes are counted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from variants.encoder.options import read_options
from variants.encoder.planner import AffineCost
from variants.encoder.shapes import ShapeGrid, make_grid
from variants.encoder.tensorrt.encoder import OPTIONS, build_encoder, require

if TYPE_CHECKING:
    from harness.protocols import ShapePlan
    from variants.encoder.bucketed import BucketedEncoder
    from variants.models.types import TdtModel

NAME = "multi_profile"
DEFAULTS: Mapping[str, Any] = {**OPTIONS, "profiles": 5}


def build(model: TdtModel, options: Mapping[str, Any], plan: ShapePlan) -> BucketedEncoder:
    """Raises ``UnavailableError`` without a GPU or TensorRT, ``InvalidMeasurementError`` without parity."""
    chosen = read_options(options, NAME, DEFAULTS)
    require(NAME, model, chosen)
    return build_encoder(NAME, model, chosen, make_multi_grid(plan, chosen, model.hop_s), plan.progress)


def make_multi_grid(plan: ShapePlan, chosen: Mapping[str, Any], hop_s: float) -> ShapeGrid:
    """The planned profiles: tuned for their maximum where requests are padded to it, else for the
    median of what falls into them."""
    if chosen["profiles"] < 1:
        raise UsageError(
            f"encoder.options.profiles={chosen['profiles']}: {NAME} takes a whole number above 0"
        )
    pad = chosen["padding"] == "profile"
    grid = make_grid(
        plan,
        k=chosen["profiles"],
        longest_s=float(chosen["longest_s"]),
        hop_s=hop_s,
        cost=AffineCost(),
        opt="max" if pad else "median",
    )
    return replace(grid, pad=pad)
