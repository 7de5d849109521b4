"""Trained modules as the files that ship: half-precision weights, tokenizer, and what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from variants.models.embedded_weights import MODULE_PREFIXES
from variants.models.weights import file_sha256

if TYPE_CHECKING:
    from training.model import Trainee

WEIGHTS = "parakeet_tiny.safetensors"
TOKENIZER = "tokenizer.model"
DESCRIPTION = "config.json"


def export(trainee: Trainee, tokenizer: Path, folder: Path) -> None:
    """Write weights, tokenizer and description into ``folder``. The CTC head stays behind.

    Parameters are stored in float16, whose rounding is a thousandth of what training noise leaves;
    the running statistics of batch normalization stay as they are, since variances may not fit.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(trainee.named_parameters())
    tensors = {
        name: (tensor.half() if name in parameters else tensor).detach().cpu().contiguous()
        for name, tensor in trainee.state_dict().items()
        if name.split(".")[0] in MODULE_PREFIXES
    }
    save_file(tensors, folder / WEIGHTS)
    if tokenizer.resolve() != (folder / TOKENIZER).resolve():
        shutil.copyfile(tokenizer, folder / TOKENIZER)
    description = {
        "architecture": asdict(trainee.architecture),
        "sha256": {name: file_sha256(folder / name) for name in (WEIGHTS, TOKENIZER)},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_weights(trainee: Trainee, path: Path) -> None:
    """Exported weights back into ``trainee``, whose CTC head keeps what it has."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"{path}: no such weights; leave --weights out to start anew")
    missing, unexpected = trainee.load_state_dict(load_file(path), strict=False)
    strangers = [name for name in missing if not name.startswith("ctc.")] + list(unexpected)
    if strangers:
        raise UsageError(f"{path}: does not fit this architecture ({strangers[0]})")
