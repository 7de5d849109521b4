"""openai-whisper itself, as a peer: ``whisper.decode`` over its own features and modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from variants.models.options import ModelOptions, resolve_device
from variants.models.whisper.architecture import openai_whisper
from variants.models.whisper.assemble import preload, synchronizer
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.peers import Peer, Said, check, precision
from variants.models.whisper.rules import WhisperTokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["Options", "build", "preload"]

Options = WhisperOptions


def build(options: ModelOptions) -> Peer:
    """Its modules with the weights that ``options.weights`` names, in float32 as its loader leaves them: in
    half precision it casts them in every call."""
    from variants.models.whisper.checkpoint import load_weights

    asked, device = check(options), resolve_device(options)
    if options.precision == "bf16":
        raise UsageError("model.precision=bf16: openai-whisper decodes in fp32 or fp16; choose one of them")
    weights = load_weights(options.weights, options.progress)
    engine = OpenaiEngine(weights.modules.to(device).eval(), asked, options)
    tokenizer = WhisperTokenizer(weights.size, asked)
    return Peer(
        options.name, engine, tokenizer, asked, {**weights.provenance, "precision": options.precision}
    )


@dataclass
class OpenaiEngine:
    """See ``variants.models.whisper.peers.WindowEngine``."""

    modules: Any
    asked: WhisperOptions
    options: ModelOptions

    def __post_init__(self) -> None:
        import torch

        self._device: torch.device = next(self.modules.parameters()).device
        self._dtype: torch.dtype = getattr(torch, precision(self.options))
        self._synchronize = synchronizer(self._device)
        self._decoding = openai_whisper("decoding")
        self._how = self._decoding.DecodingOptions(
            task=self.asked.task,
            language=self.asked.language,
            sample_len=self.asked.max_tokens,
            prompt=self.asked.initial_prompt or None,
            without_timestamps=not self.asked.timestamps,
            fp16=self._dtype == torch.float16,
        )

    def features(self, samples: np.ndarray) -> torch.Tensor:
        audio = openai_whisper("audio")
        mel: torch.Tensor = audio.log_mel_spectrogram(samples, self.modules.dims.n_mels, device=self._device)
        self._synchronize()
        return mel[None].to(self._dtype)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            states: torch.Tensor = self.modules.encoder(features)
        self._synchronize()
        return states

    def decode(self, states: torch.Tensor) -> Said:
        (found,) = self._decoding.decode(self.modules, states, self._how)
        return Said(tuple(found.tokens), found.no_speech_prob, found.avg_logprob)
