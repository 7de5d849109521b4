"""Weights of any origin to an ``AttentionModel`` on its device: what every Whisper's ``build`` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from variants.models.host_memory import keep_freed_memory
from variants.models.options import ModelOptions, resolve_device, resolve_dtype
from variants.models.whisper.architecture import WhisperArchitecture, keep_layers, openai_whisper
from variants.models.whisper.model import AttentionModel
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.rules import WhisperTokenizer
from variants.models.whisper.weights import WhisperWeights

if TYPE_CHECKING:
    import torch


def preload() -> None:
    """Import openai-whisper and torch: seconds that a process can spend while another has its turn."""
    openai_whisper("model")


def assemble(architecture: WhisperArchitecture, options: ModelOptions) -> AttentionModel:
    """Load what ``options.weights`` names and place it; trained weights bring their own architecture.

    Raises ``UsageError`` or ``UnavailableError`` naming the file or key.
    """
    device = resolve_device(options)  # first: a missing GPU should not cost a minute of loading
    if device.type == "cpu":
        keep_freed_memory()
    asked: WhisperOptions = options.options
    weights = _weights(architecture, options)
    tokenizer = WhisperTokenizer(weights.size, asked)  # a wrong language, before anything is placed
    provenance = {
        **weights.provenance,
        "parameters": sum(each.numel() for each in weights.modules.parameters()),
        **keep_layers(weights.modules, options.layers, options.name),
    }
    options.progress(f"placing the model on {device}")
    dtype = resolve_dtype(options)
    return AttentionModel(
        name=options.name,
        modules=place(weights.modules, device, dtype),
        size=weights.size,
        tokenizer=tokenizer,
        rules=tokenizer.rules(weights.size, asked),
        device=device,
        dtype=dtype,
        options=asked,
        provenance=provenance,
        synchronize=synchronizer(device),
        features_on=options.features,
    )


def _weights(architecture: WhisperArchitecture, options: ModelOptions) -> WhisperWeights:
    if options.weights == "synthetic":
        from variants.models.whisper.synthetic import build_synthetic

        return build_synthetic(architecture, options.seed, options.tokens_per_speech_s, options.progress)
    from variants.models.whisper.checkpoint import load_weights

    return load_weights(options.weights, options.progress)


def place(modules: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Matrices in ``dtype``, to which openai-whisper would cast them in every call; norms stay in float32,
    in which it computes them."""
    import torch

    modules = modules.to(device).eval().requires_grad_(False)
    for module in modules.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Embedding):
            module.to(dtype)
    return modules


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits for ``device``; nothing on the CPU."""
    import torch

    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
