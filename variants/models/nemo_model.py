"""A Parakeet as NeMo's own model object, which ``transcribe`` and ``export`` are called of.

A ``.nemo`` file holds one. The embedded weights are put into one that NeMo's classes are instantiated from,
with a configuration as a ``.nemo`` file has it.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.protocols import BuildProgress, silent
from variants.models.embedded_weights import TOKENIZER, load_embedded
from variants.models.parakeet import (
    PARAKEET_TINY,
    TdtArchitecture,
    asr_models,
    encoder_arguments,
    joint_arguments,
    prednet_arguments,
    random_initialization,
)
from variants.models.tokenizer import SentencePieceTokenizer
from variants.models.types import SAMPLE_RATE
from variants.models.weights import file_sha256

_MODULES = "nemo.collections.asr.modules"


@dataclass(frozen=True, slots=True)
class NemoModel:
    """``asr`` is an ``EncDecRNNTBPEModel`` in ``eval()`` mode on the CPU."""

    asr: Any
    provenance: dict[str, Any]


def nemo_model(weights: str, progress: BuildProgress = silent) -> NemoModel:
    """Of ``embedded`` weights or a ``.nemo`` file. Raises ``UsageError`` naming a file that holds none."""
    if weights == "embedded":
        progress("loading the embedded weights into NeMo's model")
        return _embedded()
    from variants.models.checkpoint import restore

    path = Path(weights).expanduser()
    progress(f"restoring {path.name}")
    return NemoModel(restore(path), {"weights": path.name, "weights_hash": file_sha256(path)})


def _embedded() -> NemoModel:
    from omegaconf import OmegaConf

    from variants.models.checkpoint import quiet_nemo

    weights = load_embedded("parakeet_tiny", PARAKEET_TINY)
    with tempfile.TemporaryDirectory() as folder, quiet_nemo(), random_initialization(False):
        shutil.copy(TOKENIZER, folder)
        vocabulary = "\n".join(SentencePieceTokenizer(TOKENIZER).pieces)
        (Path(folder) / "vocab.txt").write_text(vocabulary, encoding="utf-8")
        config = configuration(PARAKEET_TINY, Path(folder))
        asr = asr_models().EncDecRNNTBPEModel(OmegaConf.create(config)).eval()
    for part, trained in zip((asr.encoder, asr.decoder, asr.joint), weights.modules, strict=True):
        part.load_state_dict(trained.state_dict())
    return NemoModel(asr, weights.provenance)


def configuration(size: TdtArchitecture, tokenizer: Path) -> dict[str, Any]:
    """What NeMo instantiates an ``EncDecRNNTBPEModel`` from. ``tokenizer`` is a folder with its sentencepiece
    model and, a line each, its pieces."""
    durations = list(size.durations)
    return {
        "sample_rate": SAMPLE_RATE,
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "model_defaults": {"enc_hidden": size.d_model, "pred_hidden": size.pred_hidden},
        "preprocessor": {
            "_target_": f"{_MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": size.hop_s,
            "window": "hann",
            "features": size.feature_bins,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {"_target_": f"{_MODULES}.ConformerEncoder", **encoder_arguments(size)},
        "decoder": {"_target_": f"{_MODULES}.RNNTDecoder", **prednet_arguments(size)},
        "joint": {"_target_": f"{_MODULES}.RNNTJoint", **joint_arguments(size), "vocabulary": []},
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": durations,
            "greedy": {"max_symbols": size.max_symbols},
        },
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": durations}},
    }
