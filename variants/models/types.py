"""What encoders and decoders may rely on, whichever checkpoint or architecture is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from variants.serving.window import StreamingOptions

if TYPE_CHECKING:
    import torch


class Tokenizer(Protocol):
    """Token ids to text."""

    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class TdtModel:
    """A token-and-duration transducer (Xu et al. 2023, arXiv:2304.06795), in ``eval()`` mode.

    ``encoder``, ``prednet`` and ``joint`` are NeMo's ``ConformerEncoder``, ``RNNTDecoder`` and
    ``RNNTJoint`` on ``device`` in ``dtype``. The joint's output is ``[tokens | blank | durations]``.
    """

    name: str
    encoder: torch.nn.Module
    prednet: torch.nn.Module
    joint: torch.nn.Module
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    durations: tuple[int, ...]
    blank_id: int
    max_symbols: int
    frame_s: float
    """Seconds of audio per encoder frame (0.08: ten-millisecond hop, subsampled by eight)."""
    feature_bins: int
    hop_s: float = 0.01
    """Seconds between two feature frames."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Weights hash, seed, achieved token rate: whatever identifies the numbers behind the model."""
    options: StreamingOptions = field(default_factory=StreamingOptions)
    """``model.options`` of the configuration: streaming's contexts."""
    synchronize: Callable[[], None] = field(default=lambda: None)
    """Waits for the device; nothing on the CPU."""
