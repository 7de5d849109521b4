"""Weights of any origin to a ``TdtModel`` on its device: what every Parakeet's ``build`` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from variants.models.host_memory import keep_freed_memory
from variants.models.options import ModelOptions, resolve_device, resolve_dtype
from variants.models.parakeet import TdtArchitecture, check_depth, check_parameter_count, keep_layers
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
    if device.type == "cpu":
        keep_freed_memory()
    if options.weights == "synthetic":
        return place(_synthetic(architecture, options, parameters), options, device)
    return place(_first_layers(_trained(architecture, options), options), options, device)


def _trained(architecture: TdtArchitecture, options: ModelOptions) -> Weights:
    if options.weights == "embedded":
        from variants.models.embedded_weights import load_embedded

        options.progress("loading the embedded weights")
        return load_embedded(options.name, architecture)
    from variants.models.checkpoint import load_checkpoint

    options.progress(f"loading the checkpoint {Path(options.weights).name}")
    return load_checkpoint(Path(options.weights))


def _first_layers(weights: Weights, options: ModelOptions) -> Weights:
    """Trained weights cut to ``options.layers``: their speed means something, their text no more."""
    depth = keep_layers(weights.modules[0], options.layers, options.name)
    return replace(weights, provenance={**weights.provenance, **_depth(options, depth)})


def _depth(options: ModelOptions, depth: int) -> dict[str, int]:
    return {} if options.layers is None else {"layers": options.layers, "of_layers": depth}


def _synthetic(architecture: TdtArchitecture, options: ModelOptions, parameters: int | None) -> Weights:
    from variants.models.synthetic import build_synthetic
    from variants.models.tokenizer import SyntheticTokenizer

    depth = architecture.layers
    if options.layers is not None:
        check_depth(options.layers, depth, options.name)
        architecture, parameters = replace(architecture, layers=options.layers), None
    modules, provenance = build_synthetic(
        architecture, options.seed, options.tokens_per_speech_s, options.progress
    )
    if parameters is not None:
        check_parameter_count(modules, parameters)
    provenance |= _depth(options, depth)
    return with_architecture(modules, SyntheticTokenizer(architecture.vocab_size), architecture, provenance)


def place(weights: Weights, options: ModelOptions, device: torch.device) -> TdtModel:
    """In ``eval()`` mode and the number type of ``options``."""
    import torch

    dtype = resolve_dtype(options)
    options.progress(f"placing the model on {device}")
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
        features_on=options.features,
    )
    if device.type != "cuda":
        return model
    return replace(model, synchronize=lambda: torch.cuda.synchronize(device))
