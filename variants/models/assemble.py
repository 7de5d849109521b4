"""Weights of any origin to a ``TdtModel`` on its device: what every Parakeet's ``build`` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from variants.models.options import ModelOptions, resolve_device, resolve_dtype
from variants.models.parakeet import TdtArchitecture, check_parameter_count
from variants.models.types import TdtModel
from variants.models.weights import Weights, with_architecture

if TYPE_CHECKING:
    import torch


def assemble(architecture: TdtArchitecture, options: ModelOptions, parameters: int | None = None) -> TdtModel:
    """Load what ``options.weights`` names and place it. ``parameters`` is the count that an
    architecture of that name must have; a checkpoint brings its own architecture and is not counted.

    Raises ``UsageError`` or ``UnavailableError`` naming the file or key.
    """
    device = resolve_device(options)  # first: a missing GPU should not cost a minute of loading
    if options.weights == "synthetic":
        return _place(_synthetic(architecture, options, parameters), options, device)
    if options.weights == "embedded":
        from variants.models.embedded_weights import load_embedded

        return _place(load_embedded(options.name, architecture), options, device)
    from variants.models.checkpoint import load_checkpoint

    return _place(load_checkpoint(Path(options.weights)), options, device)


def _synthetic(architecture: TdtArchitecture, options: ModelOptions, parameters: int | None) -> Weights:
    from variants.models.synthetic import build_synthetic
    from variants.models.tokenizer import SyntheticTokenizer

    modules, provenance = build_synthetic(architecture, options.seed, options.tokens_per_speech_s)
    if parameters is not None:
        check_parameter_count(modules, parameters)
    return with_architecture(modules, SyntheticTokenizer(architecture.vocab_size), architecture, provenance)


def _place(weights: Weights, options: ModelOptions, device: torch.device) -> TdtModel:
    import torch

    dtype = resolve_dtype(options)
    encoder, prednet, joint = (
        module.to(device=device, dtype=dtype).eval().requires_grad_(False) for module in weights.modules
    )
    model = TdtModel(
        name=options.name,
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=weights.tokenizer,
        device=device,
        dtype=dtype,
        durations=weights.durations,
        blank_id=weights.blank_id,
        max_symbols=weights.max_symbols,
        frame_s=weights.frame_s,
        hop_s=weights.hop_s,
        feature_bins=weights.feature_bins,
        provenance=weights.provenance,
        options=options.options,
    )
    if device.type != "cuda":
        return model
    return replace(model, synchronize=lambda: torch.cuda.synchronize(device))
