"""A Parakeet as the ONNX graphs that onnx-asr and sherpa-onnx read: NeMo's own export, and what lies beside.

Both packages' models are made in this way, with NeMo's names of inputs and outputs; our own export of an
encoder (``variants.encoder.tensorrt.export``) is another graph. onnx-asr reads an encoder, the prediction
network and joint in one graph, a vocabulary and a configuration; sherpa-onnx an encoder whose metadata
describes the model, prediction network and joint apart, and the vocabulary under another name.

Exports are kept under a key of what they are made of, and made in a process of their own: one that serves
holds neither torch nor NeMo for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.errors import UsageError
from harness.protocols.children import teller
from variants.content_cache import user_cache
from variants.made_once import made_once
from variants.models.embedded_weights import TOKENIZER
from variants.models.options import ModelOptions
from variants.models.peers import versions
from variants.models.weights import file_sha256, files_sha256

SCHEME = 1
"""Part of every key: raise it whenever what is exported changes."""
_METADATA_VERSION = 2  # of sherpa-onnx's own scripts of export


@dataclass(frozen=True, slots=True)
class OnnxPeerOptions:
    cache_dir: str | None = None
    """Of exported models; null: the user's cache."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A folder in a package's layout."""

    folder: Path
    provenance: dict[str, Any]


def onnx_model(options: ModelOptions, layout: str) -> OnnxModel:
    """``options.weights`` in ``layout``: a folder as it is; embedded weights and ``.nemo`` files exported,
    now or earlier. Raises ``UsageError`` naming a file that cannot be."""
    path = Path(options.weights).expanduser()
    if path.is_dir():
        return OnnxModel(path, {"weights": path.name, "weights_hash": _folder_digest(path)})
    if options.weights == "embedded":
        path = TOKENIZER.parent / "parakeet_tiny.safetensors"
    elif not path.is_file():
        raise UsageError(
            f"model.weights={options.weights}: no such file; give embedded, a .nemo file, or a folder of "
            f"{options.name}'s"
        )
    digest = file_sha256(path)
    folder = _exported(options, layout, digest)
    return OnnxModel(folder, {"weights": Path(options.weights).name, "weights_hash": digest})


def _folder_digest(folder: Path) -> str:
    graphs = sorted(folder.glob("*.onnx*"))
    if not graphs:
        raise UsageError(f"model.weights={folder}: there is no ONNX graph in it")
    return files_sha256(graphs)


def _exported(options: ModelOptions, layout: str, digest: str) -> Path:
    chosen: OnnxPeerOptions = options.options
    options.progress(f"graphs for {options.name}")
    return made_once(
        Path(chosen.cache_dir) if chosen.cache_dir else user_cache("onnx"),
        [SCHEME, layout, digest, versions("torch", "nemo_toolkit", "onnx")],
        "variants.models.onnx_layouts:main",
        lambda folder: Job(layout, options.weights, folder),
        options.progress,
    )


# ---------------------------------------------------------------- the exporting process


@dataclass(frozen=True, slots=True)
class Job:
    layout: str
    weights: str
    folder: Path


def main(job: Job, control: Connection) -> int:
    """Fill ``job.folder`` and say so. Raises ``UsageError`` for a model that neither package can search."""
    from variants.models.nemo_model import nemo_model

    asr = nemo_model(job.weights, teller(control)).asr
    _check_durations(asr, job.weights)
    LAYOUTS[job.layout](asr, job.folder)
    control.send("exported")
    return 0


def _check_durations(asr: Any, weights: str) -> None:
    """Both packages take the number of a duration's output for the duration."""
    from variants.models.checkpoint import durations_of

    durations = durations_of(asr, Path(weights))
    if durations != tuple(range(len(durations))):
        raise UsageError(
            f"model.weights={weights}: durations {durations}; onnx-asr and sherpa-onnx know 0, 1, 2, … alone"
        )


def write_onnx_asr(asr: Any, folder: Path) -> None:
    """``encoder-model.onnx``, ``decoder_joint-model.onnx``, ``vocab.txt`` and ``config.json``."""
    asr.export(str(folder / "model.onnx"))
    _write_vocabulary(asr, folder / "vocab.txt")
    config = {
        "model_type": "nemo-conformer-tdt",
        "features_size": int(asr.cfg.preprocessor.features),
        "subsampling_factor": int(asr.encoder.subsampling_factor),
        "max_tokens_per_step": int(asr.decoding.decoding.max_symbols or 10),
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_sherpa_onnx(asr: Any, folder: Path) -> None:
    """``encoder.onnx``, ``decoder.onnx``, ``joiner.onnx`` and ``tokens.txt``."""
    for part, name in ((asr.encoder, "encoder"), (asr.decoder, "decoder"), (asr.joint, "joiner")):
        part.export(str(folder / f"{name}.onnx"))
    _write_vocabulary(asr, folder / "tokens.txt")
    metadata = {
        "vocab_size": asr.decoder.vocab_size,
        "normalize_type": asr.cfg.preprocessor.normalize,
        "pred_rnn_layers": asr.decoder.pred_rnn_layers,
        "pred_hidden": asr.decoder.pred_hidden,
        "subsampling_factor": asr.encoder.subsampling_factor,
        "model_type": type(asr).__name__,
        "version": _METADATA_VERSION,
        "feat_dim": asr.cfg.preprocessor.features,
        "url": "parakeet-tdt",  # a transducer with durations is known by "tdt" in here
    }
    _describe(folder / "encoder.onnx", metadata)


LAYOUTS: Mapping[str, Callable[[Any, Path], None]] = MappingProxyType(
    {"onnx_asr": write_onnx_asr, "sherpa_onnx": write_sherpa_onnx}
)


def _write_vocabulary(asr: Any, path: Path) -> None:
    """Lines of ``PIECE ID``; blank comes last."""
    pieces = [*asr.joint.vocabulary, "<blk>"]
    path.write_text("".join(f"{piece} {token}\n" for token, piece in enumerate(pieces)), encoding="utf-8")


def _describe(path: Path, metadata: Mapping[str, object]) -> None:
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, str(path))
