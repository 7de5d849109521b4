"""One TensorRT engine with one optimization profile, as wide as the longest input.

``padding: profile`` pads every request to that length, as a fixed-shape deployment does; ``none`` runs it
at its own, on kernels that were chosen for the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from variants.encoder.options import SingleProfile
from variants.encoder.planner import Profile
from variants.encoder.shapes import ShapeGrid, batch_sizes, reached_frames
from variants.encoder.tensorrt.encoder import build_encoder, require

if TYPE_CHECKING:
    from harness.protocols import ShapePlan
    from variants.encoder.bucketed import BucketedEncoder
    from variants.models.types import TdtModel

NAME = "single_profile"


def build(model: TdtModel, options: SingleProfile, plan: ShapePlan) -> BucketedEncoder:
    """Raises ``UnavailableError`` without a GPU or TensorRT, ``InvalidMeasurementError`` without parity."""
    require(NAME, model, options)
    return build_encoder(NAME, model, options, make_single_grid(plan, options, model.hop_s), plan.progress)


def make_single_grid(plan: ShapePlan, chosen: SingleProfile, hop_s: float) -> ShapeGrid:
    """One profile from one frame to the longest, tuned for the longest."""
    longest = reached_frames(plan, chosen.longest_s, hop_s)
    profile = Profile(1, longest, longest)
    return ShapeGrid((profile,), batch_sizes(plan.max_batch), pad=chosen.padding == "profile")
