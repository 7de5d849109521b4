"""onnx-asr as a peer: ``recognize`` over ONNX Runtime on the CPU, with its own features and greedy search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from variants.models.onnx_layouts import OnnxPeerOptions, onnx_model
from variants.models.options import ModelOptions
from variants.models.peers import Heard, SegmentPeer, check, check_host, process_threads, versions
from variants.onnx_sessions import quiet_onnxruntime, session_options

Options = OnnxPeerOptions


def preload() -> None:
    quiet_onnxruntime()
    import onnx_asr  # noqa: F401


def build(options: ModelOptions) -> SegmentPeer:
    """Of embedded weights or a ``.nemo`` file, exported, or of a folder in onnx-asr's layout whose
    ``config.json`` names its type. Raises ``UsageError`` naming the file or key."""
    check(options)
    check_host(options)
    exported = onnx_model(options, "onnx_asr")
    threads = process_threads()
    options.progress(f"loading {exported.provenance['weights']}")
    provenance = {
        **exported.provenance,
        "device": "cpu",
        "threads": threads,
        "packages": versions("onnx-asr", "onnxruntime"),
    }
    return SegmentPeer(options.name, OnnxAsrEngine(_loaded(exported.folder, threads)), provenance)


def _loaded(folder: Path, threads: int) -> Any:
    preload()
    from onnx_asr import load_model
    from onnx_asr.utils import ModelLoadingError

    how = {"sess_options": session_options(threads), "providers": ["CPUExecutionProvider"]}
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        return load_model(kind, folder, **how)
    except (ModelLoadingError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"model.weights={folder}: onnx-asr cannot load it ({error})") from error


@dataclass(frozen=True)
class OnnxAsrEngine:
    """See ``variants.models.peers.SegmentEngine``."""

    asr: Any

    def hear(self, samples: Sequence[np.ndarray]) -> list[Heard]:
        return [Heard(text) for text in self.asr.recognize(list(samples))]
