"""A real checkpoint: a ``.nemo`` file brings its own architecture, weights and tokenizer."""

from __future__ import annotations

import itertools
import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from variants.models.parakeet import asr_models
from variants.models.weights import Weights, file_sha256

# What the front end computes. A checkpoint that was trained on anything else would transcribe noise.
_FRONTEND = {
    "sample_rate": 16_000,
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "n_fft": 512,
    "normalize": "per_feature",
}

_UNPACKED_SHARE = 4
_UNPACKED_SPARE_BYTES = 64 << 20
"""What may be unpacked: weights hardly compress; configuration and vocabulary do, but are small."""


class NemoTokenizer:
    """The checkpoint's own tokenizer, of whatever kind."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.ids_to_text(list(tokens)))


def load_checkpoint(path: Path) -> Weights:
    """Restore ``path`` on the CPU.

    Raises ``UsageError`` naming the file when it is missing, no ``.nemo`` archive, no transducer with
    durations, or trained on features that the front end does not compute.
    """
    model = restore(path)
    durations = durations_of(model, path)
    _check_features(model.cfg.preprocessor, path)
    return Weights(
        modules=(model.encoder, model.decoder, model.joint),
        tokenizer=NemoTokenizer(model.tokenizer),
        durations=durations,
        max_symbols=_max_symbols(model.cfg),
        blank_id=int(model.decoder.blank_idx),
        frame_s=float(model.cfg.preprocessor.window_stride) * int(model.encoder.subsampling_factor),
        hop_s=float(model.cfg.preprocessor.window_stride),
        feature_bins=int(model.cfg.preprocessor.features),
        provenance={"weights": path.name, "weights_hash": file_sha256(path)},
    )


def restore(path: Path) -> Any:
    """NeMo's own model, in ``eval()`` mode on the CPU. Raises ``UsageError`` naming the file where it is
    missing, no ``.nemo`` archive, or no transducer with a tokenizer."""
    _check_archive(path)
    with quiet_nemo():
        return _restored(path)


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise UsageError(
            f"model.weights={path}: no such file; give a .nemo file, or model.weights=synthetic or embedded"
        )
    packed = path.stat().st_size
    allowed = _UNPACKED_SHARE * packed + _UNPACKED_SPARE_BYTES
    try:
        with tarfile.open(path) as archive:
            sizes = itertools.accumulate(_unpacked_bytes(archive))
            swells = any(unpacked > allowed for unpacked in sizes)  # stops reading there
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"model.weights={path}: not a .nemo archive, or cut short; fetch it again"
        ) from error
    if swells:
        raise UsageError(
            f"model.weights={path}: {packed >> 20} MiB would unpack to more than {allowed >> 20} MiB, as no "
            "checkpoint's weights do; fetch it from a source that you trust"
        )


def _unpacked_bytes(archive: tarfile.TarFile) -> Iterator[int]:
    """Of each member, then of the tensors in it: weights are an archive of their own."""
    for member in archive:
        yield member.size
        weights = archive.extractfile(member) if member.name.endswith(".ckpt") else None
        if weights is not None and zipfile.is_zipfile(weights):
            with zipfile.ZipFile(weights) as tensors:
                yield sum(tensor.file_size for tensor in tensors.infolist())


def _restored(path: Path) -> Any:
    models = asr_models()
    try:
        model = models.ASRModel.restore_from(str(path), map_location="cpu")
    except Exception as error:  # NeMo raises anything from KeyError to RuntimeError for a damaged archive
        raise UsageError(f"model.weights={path}: NeMo cannot restore it ({_first_line(error)})") from error
    if not isinstance(model, models.EncDecRNNTModel) or not hasattr(model, "tokenizer"):
        raise UsageError(
            f"model.weights={path}: holds a {type(model).__name__}, needed is a transducer with a tokenizer "
            "(EncDecRNNTBPEModel)"
        )
    return model.eval()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def durations_of(model: Any, path: Path) -> tuple[int, ...]:
    """The durations of the joint's extra outputs, from wherever the configuration states them. Raises
    ``UsageError`` naming the file where there are none."""
    outputs = int(model.joint.num_extra_outputs)
    stated = model.cfg.decoding.get("durations") or model.cfg.loss.get("tdt_kwargs", {}).get("durations")
    if outputs == 0 or not stated or len(stated) != outputs:
        raise UsageError(f"model.weights={path}: no TDT model, its joint has {outputs} outputs for durations")
    return tuple(int(duration) for duration in stated)


def _max_symbols(config: Any) -> int:
    """NeMo reads either key, and so does this; ten is Parakeet's."""
    greedy = config.decoding.get("greedy", {})
    return int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10)


def _check_features(preprocessor: Mapping[str, Any], path: Path) -> None:
    for key, expected in _FRONTEND.items():
        found = preprocessor.get(key, expected)
        if found != expected:
            raise UsageError(
                f"model.weights={path}: trained on features with {key}={found}, the front end has {expected}"
            )


@contextmanager
def quiet_nemo() -> Iterator[None]:
    """NeMo warns at length about the data loaders of training, which do not concern inference."""
    logger = logging.getLogger("nemo_logger")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
