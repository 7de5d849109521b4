"""What encoders and decoders may rely on, whichever checkpoint or architecture is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from harness.protocols import Decoder, Encoder, Features
from variants.models.features import FeatureConfig, LogMel
from variants.serving.window import StreamingOptions

if TYPE_CHECKING:
    import torch

    from variants.batching.types import Inference
    from variants.encoder.cached import CachedLayers
    from variants.models.device_features import BatchLogMel
    from variants.serving.chunks import ChunkEncoder
    from variants.serving.inference import EncoderDecoder
    from variants.serving.pool import StreamPool
    from variants.serving.window import Contexts

SAMPLE_RATE = 16_000
"""In hertz: what the models here were trained on."""


class Tokenizer(Protocol):
    """Token ids to text."""

    def decode(self, tokens: Sequence[int]) -> str: ...


class Model(Protocol):
    """What serving has to know of a model; encoders and decoders of its family know more."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str:
        """``tdt``, …: which encoders and decoders can serve it (``families`` of their leaves)."""
        ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def features(self) -> Features: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    def open_pool(self, encoder: Encoder, decoder: Decoder, slots: int) -> StreamPool:
        """Room for ``slots`` live streams. Raises ``UnavailableError`` where this model cannot stream."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        ...

    def hearing(self, parts: EncoderDecoder) -> Inference:
        """``parts``, or what makes of a recording's segments that which they can take."""
        ...


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
    family: str = "tdt"
    sample_rate: int = SAMPLE_RATE

    features_on: str = "host"
    """``host``, or ``device``: where log-mel features are computed."""

    @cached_property
    def features(self) -> Features:
        """NeMo's log-mel, as the encoder was trained on it."""
        if self.features_on == "host":
            return LogMel(self._feature_config, self.sample_rate)
        from variants.models.device_features import DeviceLogMel

        return DeviceLogMel(self._feature_config, self.sample_rate, self.device)

    @property
    def _feature_config(self) -> FeatureConfig:
        return FeatureConfig(n_mels=self.feature_bins, hop_s=self.hop_s)

    def hearing(self, parts: EncoderDecoder) -> Inference:
        """Segments of any length, one by one."""
        return parts

    def open_pool(self, encoder: Encoder, decoder: Decoder, slots: int) -> StreamPool:
        """Rolling windows with the contexts of ``model.options`` (see ``variants.serving.rolling``)."""
        from variants.models.feature_ring import FeatureRing
        from variants.serving.endpoints import Endpoints
        from variants.serving.rolling import RollingPool

        contexts = self.options.in_samples(round(self.frame_s * self.sample_rate), self.sample_rate)
        ring = FeatureRing(self._live_log_mel, slots, contexts.window // self._live_log_mel.hop)
        ends = self.options.endpointing
        endpoints = Endpoints(ends, slots, self.sample_rate) if ends.silence_s else None
        text = self.tokenizer.decode
        chunks = self._chunk_encoder(encoder, contexts, ring.hop, slots)
        return RollingPool(chunks, decoder, ring, text, contexts, slots, endpoints, self.synchronize)

    def _chunk_encoder(self, encoder: Encoder, contexts: Contexts, hop: int, slots: int) -> ChunkEncoder:
        from variants.serving.cached import CachedChunks
        from variants.serving.chunks import WindowedChunks

        if self.options.method == "window":
            # What more than one window of 10 s writes between two layers leaves a core's caches.
            return WindowedChunks(encoder, 1500 if self.device.type == "cpu" else None)
        return CachedChunks(self._cached_layers, contexts, hop, slots)

    @cached_property
    def _cached_layers(self) -> CachedLayers:
        """For every pool of this model."""
        from variants.encoder.cached import CachedLayers

        contexts = self.options.in_samples(round(self.frame_s * self.sample_rate), self.sample_rate)
        return CachedLayers(self.encoder, contexts.window // contexts.frame)

    @cached_property
    def _live_log_mel(self) -> BatchLogMel:
        import torch

        from variants.models.device_features import BatchLogMel

        device = torch.device("cpu") if self.features_on == "host" else self.device
        return BatchLogMel(self._feature_config, self.sample_rate).to(device)
