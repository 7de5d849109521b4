"""The trained weights that travel with the package: ``embedded/NAME.safetensors`` and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UnavailableError
from variants.models.parakeet import Modules, TdtArchitecture, build_modules
from variants.models.tokenizer import SentencePieceTokenizer
from variants.models.weights import Weights, file_sha256, with_architecture

if TYPE_CHECKING:
    import torch

MODULE_PREFIXES = ("encoder", "prednet", "joint")
_FOLDER = Path(__file__).parent / "embedded"
TOKENIZER = _FOLDER / "tokenizer.model"


def load_embedded(name: str, architecture: TdtArchitecture, folder: Path | None = None) -> Weights:
    """Weights of model ``name``; tensors are named ``encoder.*``, ``prednet.*`` and ``joint.*``.

    Raises ``UnavailableError`` naming a file that is missing or does not fit ``architecture``.
    """
    folder = folder or _FOLDER
    path, tokenizer_path = folder / f"{name}.safetensors", folder / TOKENIZER.name
    missing = [str(file) for file in (path, tokenizer_path) if not file.is_file()]
    if missing:
        raise UnavailableError(
            f"model.weights=embedded: no {' and no '.join(missing)}; use synthetic or a .nemo file"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    modules = build_modules(architecture, initialize=False)
    try:
        _fill(modules, load_file(path), path)
    except SafetensorError as error:
        raise UnavailableError(f"{path}: not a safetensors file ({error})") from error
    tokenizer = SentencePieceTokenizer(tokenizer_path)
    if tokenizer.vocab_size != architecture.vocab_size:
        raise UnavailableError(
            f"{tokenizer_path}: {tokenizer.vocab_size} pieces, the weights have {architecture.vocab_size}"
        )
    provenance = {"weights": "embedded", "weights_hash": file_sha256(path)}
    return with_architecture(modules, tokenizer, architecture, provenance)


def _fill(modules: Modules, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy every tensor into its module; one too many or too few, or of another shape, is an error."""
    for prefix, module in zip(MODULE_PREFIXES, modules, strict=True):
        own = {
            name.removeprefix(f"{prefix}."): tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise UnavailableError(f"{path}: does not fit the {prefix} of this version: {error}") from error
