"""Options of the encoders. They stand apart from what they configure, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from harness.errors import UsageError
from harness.protocols.options import NoOptions, Positive, PositiveSeconds, Seconds, Share

Eager = NoOptions

Backend = Literal["graph", "inductor", "fused", "kernels"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every encoder takes that prepares its shapes before it serves."""

    longest_s: PositiveSeconds = 30.0
    """Of a segment; longer ones would run eagerly and void the run."""
    token_agreement: Share = 0.5
    """Least share of labels that decode as from the eager encoder, in every bucket."""


@dataclass(frozen=True, slots=True)
class Compiled(Prepared):
    backend: Backend | Literal["best"] = "fused"
    """``kernels``: our layers compiled around kernels of our own; ``fused``: without those; ``inductor``:
    NeMo's compiled; ``graph``: NeMo's kernels as they are; ``best``: the fastest of each shape."""
    candidates: tuple[Backend, ...] = ("graph", "inductor", "fused", "kernels")
    """What ``best`` tries."""
    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    """Of inductor; the second takes minutes more to build."""
    any_length: bool = True
    """``fused``, ``kernels``: one compilation for all lengths (quick to build), or one for each."""
    buckets: Positive = 6
    """Length buckets, placed by the planner over the audio set's lengths."""
    batches: tuple[Positive, ...] | None = None
    """Batch sizes to capture; null: powers of two up to ``model.max_batch``."""
    cost: Literal["modelled", "measured"] = "modelled"
    """What the planner minimizes; ``measured``: on this GPU, at start-up."""

    def __post_init__(self) -> None:
        if self.backend == "best" and not self.candidates:
            raise UsageError("encoder.options.candidates=[] leaves encoder.options.backend=best none to try")

    @property
    def backends(self) -> tuple[str, ...]:
        """The one to capture with, or those to try."""
        return self.candidates if self.backend == "best" else (self.backend,)


@dataclass(frozen=True, slots=True)
class SingleProfile(Prepared):
    padding: Literal["profile", "none"] = "profile"
    """``profile``: to the profile's maximum; ``none``: every request at its own length."""
    runtime: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto"
    """``tensorrt_rtx`` serves compute capabilities 7.5, 8.x, 12.x; ``auto``: TensorRT, if installed."""
    precision: Literal["model", "fp8"] = "model"
    """``fp8``: the layers' large products in e4m3, from compute capability 8.9 and TensorRT 10 on."""
    cuda_graphs: bool = True
    """Capture each padded shape; without padding there are too many."""
    captured_by: Literal["harness", "runtime"] = "harness"
    """``runtime``: TensorRT-RTX captures by itself, in place of our graphs."""
    optimization_level: Annotated[int, Meta(ge=0, le=5)] = 3
    """How long the builder searches for kernels."""
    opt_batch: Positive = 1
    """Batch size that kernels are chosen for."""
    workspace_mib: Positive = 4096
    """The builder's scratch memory."""
    tactic_sources: tuple[str, ...] | None = None
    """TensorRT's ``TacticSource`` names; null: its choice."""
    cache_dir: str | None = None
    """Graphs, engines and timings; null: in the user's cache folder."""


@dataclass(frozen=True, slots=True)
class MultiProfile(SingleProfile):
    profiles: Positive = 5
    """At most; placed by the planner over the audio set's lengths."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    margin_s: Seconds = 5.0
    """Silence that is kept after the last sound of a batch: with two seconds of it the real tiny.en repeats
    itself, with five its word error rate is that of whole windows."""
    granule_s: PositiveSeconds = 1.0
    """Windows are cut to a multiple of it, so that there are few shapes."""
