"""What a user says about a model, and the device and number type that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import UnavailableError
from harness.protocols import BuildProgress, silent
from variants.serving.window import StreamingOptions

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The keys of ``conf/model``.

    ``weights`` is ``synthetic``, ``embedded`` or the path of a ``.nemo`` file; ``tokens_per_speech_s``
    is the label rate that synthetic weights are calibrated to and means nothing for trained ones;
    ``layers`` cuts the encoder to its first so many; ``features`` says where features are computed,
    on the ``host`` or the ``device``.
    """

    name: str
    weights: str = "synthetic"
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    tokens_per_speech_s: float = 4.0
    layers: int | None = None
    features: str = "host"
    options: Any = field(default_factory=StreamingOptions)
    """``Options`` of the choice's module."""
    progress: BuildProgress = field(default=silent, compare=False, repr=False)
    """Hears of what building the model does."""


def resolve_device(options: ModelOptions) -> torch.device:
    """``auto`` is the GPU where there is one. Raises ``UnavailableError`` for a GPU that is not there."""
    import torch

    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise UnavailableError("model.device=cuda: torch finds no GPU here; use model.device=cpu or auto")
    if options.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_dtype(options: ModelOptions) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[options.precision])
    return dtype
