"""What the encoders and decoders of family ``attention`` may rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.errors import UnavailableError
from harness.protocols import Decoder, Encoder, Features
from variants.models.whisper import windows
from variants.models.whisper.architecture import WhisperArchitecture
from variants.models.whisper.features import SAMPLE_RATE, DeviceWindowLogMel, WindowLogMel
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.rules import GreedyRules, WhisperTokenizer

if TYPE_CHECKING:
    import torch

    from variants.batching.types import Inference
    from variants.serving.inference import EncoderDecoder
    from variants.serving.pool import StreamPool


@dataclass(frozen=True)
class AttentionModel:
    """A Whisper in ``eval()`` mode on ``device``, its matrices in ``dtype``, its norms in float32."""

    name: str
    modules: Any
    """openai-whisper's ``Whisper``: ``encoder`` and ``decoder``."""
    size: WhisperArchitecture
    tokenizer: WhisperTokenizer
    rules: GreedyRules
    device: torch.device
    dtype: torch.dtype
    options: WhisperOptions = field(default_factory=WhisperOptions)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    synchronize: Callable[[], None] = field(default=lambda: None)
    """Waits for the device; nothing on the CPU."""
    features_on: str = "host"
    family: str = "attention"
    sample_rate: int = SAMPLE_RATE

    @cached_property
    def features(self) -> Features:
        if self.features_on == "host":
            return WindowLogMel(self.size.n_mels)
        return DeviceWindowLogMel(self.size.n_mels, self.device)

    def hearing(self, parts: EncoderDecoder) -> Inference:
        """``parts`` behind what makes windows of a recording's segments."""
        return windows.hearing(self, parts)

    def open_pool(self, encoder: Encoder, decoder: Decoder, slots: int) -> StreamPool:  # noqa: ARG002
        raise UnavailableError(
            f"model={self.name} hears windows of 30 s and keeps no state between them: it has no live "
            "streams; choose a model of family tdt"
        )
