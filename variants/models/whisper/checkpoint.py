"""Trained weights: openai-whisper's files and names, Hugging Face's and CTranslate2's folders."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UnavailableError, UsageError
from harness.protocols import BuildProgress, silent
from variants.models.weights import files_sha256
from variants.models.whisper.architecture import WhisperArchitecture, build_modules, openai_whisper
from variants.models.whisper.ctranslate2 import MODEL_FILE, read_ctranslate2
from variants.models.whisper.hugging_face import read_hugging_face
from variants.models.whisper.weights import WhisperWeights

if TYPE_CHECKING:
    import torch

_FORMS = (
    "give synthetic, a .pt file of openai-whisper, one of its names (large-v3), a Hugging Face folder with "
    "safetensors, or a CTranslate2 folder with model.bin"
)


def load_weights(given: str, progress: BuildProgress = silent) -> WhisperWeights:
    """What ``model.weights`` names, on the CPU in float32.

    Raises ``UsageError`` naming the file that is missing or damaged, ``UnavailableError`` for a name whose
    weights cannot be fetched.
    """
    path = Path(given).expanduser()
    progress(f"loading {path.name}")
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    return _of_name(given)


def _of_folder(folder: Path) -> WhisperWeights:
    if (folder / MODEL_FILE).is_file():
        size, state = read_ctranslate2(folder)
        return _filled(size, state, folder, [folder / MODEL_FILE])
    files = sorted(folder.glob("*.safetensors"))
    if files:
        size, state = read_hugging_face(folder, files)
        return _filled(size, state, folder, files)
    raise UsageError(f"model.weights={folder}: neither {MODEL_FILE} nor *.safetensors is in it; {_FORMS}")


def _filled(
    size: WhisperArchitecture, state: Mapping[str, torch.Tensor], folder: Path, files: list[Path]
) -> WhisperWeights:
    modules = build_modules(size, initialize=False)
    try:
        found = modules.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UsageError(f"model.weights={folder}: {error}") from error
    missing = set(found.missing_keys) - {"encoder.positional_embedding"}  # a formula, where it is left out
    if missing or found.unexpected_keys:
        wrong = ", ".join(sorted(missing | set(found.unexpected_keys))[:5])
        raise UsageError(f"model.weights={folder}: missing or unknown weights ({wrong})")
    return WhisperWeights(modules, size, {"weights": folder.name, "weights_hash": files_sha256(files)})


def _of_file(path: Path) -> WhisperWeights:
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        size = size_of(checkpoint["dims"])
        state = checkpoint["model_state_dict"]
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError) as error:
        raise UsageError(
            f"model.weights={path}: not a checkpoint of openai-whisper ({type(error).__name__}); {_FORMS}"
        ) from error
    return _filled(size, state, path, [path])


def _of_name(name: str) -> WhisperWeights:
    whisper = openai_whisper("__init__")
    if name not in whisper.available_models():
        raise UsageError(f"model.weights={name}: no such file, folder or name; {_FORMS}")
    try:
        modules = whisper.load_model(name, device="cpu").eval()
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"model.weights={name}: openai-whisper cannot fetch it ({error}); fetch it where there is a "
            "network, and give the file"
        ) from error
    digest = whisper._MODELS[name].split("/")[-2]  # of the file, to which its loader has held it
    return WhisperWeights(modules, size_of(asdict(modules.dims)), {"weights": name, "weights_hash": digest})


def size_of(dims: Mapping[str, Any]) -> WhisperArchitecture:
    """Raises ``KeyError`` for a size that is missing."""
    return WhisperArchitecture(**{field.name: int(dims[field.name]) for field in fields(WhisperArchitecture)})
