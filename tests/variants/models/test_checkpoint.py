"""Checkpoints that NeMo itself saved, and files that only look like them."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from harness.errors import UnavailableError, UsageError
from harness.protocols import Segment
from harness.spans import SpanRecorder
from tests.variants.eager_parts import eager_parts
from variants.models.embedded_weights import MODULE_PREFIXES, load_embedded
from variants.models.options import ModelOptions
from variants.models.parakeet import PARAKEET_TINY, build_modules
from variants.models.parakeet_tiny import build
from variants.models.types import TdtModel

WORDS = (
    "speech",
    "audio",
    "frame",
    "token",
    "blank",
    "joint",
    "label",
    "batch",
    "graph",
    "kernel",
    "silence",
)
DURATIONS = [0, 1, 2, 3, 4]


def train_tokenizer(folder: Path) -> int:
    """A sentencepiece model and NeMo's list of its pieces; the size of its vocabulary."""
    rng = np.random.default_rng(0)
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(rng.choice(WORDS, 6)) for _ in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=30, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return len(pieces)


def config(tokenizer: Path, durations: list[int]) -> dict[str, Any]:
    module = "nemo.collections.asr.modules"
    loss = (
        {"loss_name": "tdt", "tdt_kwargs": {"durations": durations}}
        if durations
        else {"loss_name": "default"}
    )
    decoding: dict[str, Any] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 7}}
    if durations:
        decoding |= {"model_type": "tdt", "durations": durations}
    return {
        "sample_rate": 16_000,
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "model_defaults": {"enc_hidden": 32, "pred_hidden": 24},
        "preprocessor": {
            "_target_": f"{module}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 80,
            "n_fft": 512,
            "dither": 0.0,
        },
        "encoder": {
            "_target_": f"{module}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 16,
            "conv_kernel_size": 9,
        },
        "decoder": {
            "_target_": f"{module}.RNNTDecoder",
            "prednet": {"pred_hidden": 24, "pred_rnn_layers": 1},
            "vocab_size": -1,
        },
        "joint": {
            "_target_": f"{module}.RNNTJoint",
            "jointnet": {"joint_hidden": 24, "activation": "relu"},
            "num_extra_outputs": len(durations),
            "num_classes": -1,
            "vocabulary": [],
        },
        "decoding": decoding,
        "loss": loss,
        "optim": {"name": "adamw", "lr": 0.001},
    }


def save(folder: Path, durations: list[int]) -> tuple[Path, Any]:
    """A small transducer that NeMo built and saved, its output lively, and NeMo's own object."""
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    train_tokenizer(folder)
    torch.manual_seed(0)
    model = EncDecRNNTBPEModel(OmegaConf.create(config(folder, durations))).eval()
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.joint.parameters()):
            parameter.mul_(3.0)
    path = folder / "small.nemo"
    model.save_to(str(path))
    return path, model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return save(tmp_path_factory.mktemp("checkpoint"), DURATIONS)


@pytest.fixture(scope="module")
def loaded(saved: tuple[Path, Any]) -> TdtModel:
    return build(ModelOptions(name="parakeet_tiny", weights=str(saved[0]), device="cpu"))


def test_brings_its_own_sizes_and_limits(loaded: TdtModel) -> None:
    assert (loaded.feature_bins, loaded.durations, loaded.max_symbols) == (80, tuple(DURATIONS), 7)
    assert loaded.blank_id == loaded.prednet.blank_idx == 30
    assert (loaded.hop_s, loaded.frame_s) == (0.01, 0.08)
    assert loaded.provenance["weights"] == "small.nemo"
    assert len(loaded.provenance["weights_hash"]) == 64


def test_text_and_tokens_equal_nemos(saved: tuple[Path, Any], loaded: TdtModel) -> None:
    nemo = saved[1]
    rng = np.random.default_rng(1)
    segments = [Segment(rng.standard_normal(160 * n, dtype=np.float32), 16_000, 0.0) for n in (300, 80, 161)]
    parts = eager_parts(loaded, max_batch=1)
    lengths_found = []
    for segment in segments:
        features = loaded.features([segment])
        with torch.inference_mode():
            states, lengths = nemo.encoder(
                audio_signal=torch.from_numpy(features.values), length=torch.from_numpy(features.lengths)
            )
            expected = nemo.decoding.rnnt_decoder_predictions_tensor(states, lengths, return_hypotheses=True)[
                0
            ]
        (ours,) = parts.transcribe([[segment]], SpanRecorder())
        assert list(ours.hypotheses[0].tokens) == expected.y_sequence.tolist()
        assert ours.text == expected.text
        lengths_found.append(len(ours.text))
    assert min(lengths_found) > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "not a .nemo archive"), (b"RIFF" * 400, "not a .nemo archive")],
)
def test_a_missing_or_foreign_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "wrong.nemo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path}.*{message}"):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


def test_an_archive_cut_short_is_named(tmp_path: Path, saved: tuple[Path, Any]) -> None:
    whole = saved[0].read_bytes()
    path = tmp_path / "short.nemo"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=str(path)):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


@pytest.mark.parametrize("files", [1, 400])
def test_an_archive_that_swells_is_refused_before_it_is_unpacked(tmp_path: Path, files: int) -> None:
    path = tmp_path / "bomb.nemo"
    size = (200 << 20) // files
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(files):
            member = tarfile.TarInfo(f"weights-{number}.ckpt")
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(UsageError, match=f"{path}.*would unpack to more than"):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


def test_weights_that_swell_inside_the_archive_are_refused(tmp_path: Path) -> None:
    weights = io.BytesIO()
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as tensors:
        tensors.writestr("archive/data/0", bytes(200 << 20))
    path = tmp_path / "bomb.nemo"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("model_weights.ckpt")
        member.size = weights.tell()
        weights.seek(0)
        archive.addfile(member, weights)
    with pytest.raises(UsageError, match=f"{path}.*would unpack to more than"):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.nemo"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "model_config.yaml")
    with pytest.raises(UsageError, match=str(path)):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


def test_a_transducer_without_durations_is_refused(tmp_path: Path) -> None:
    path, _ = save(tmp_path, [])
    with pytest.raises(UsageError, match=f"{path}.*no TDT model"):
        build(ModelOptions(name="parakeet_tiny", weights=str(path), device="cpu"))


def test_embedded_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"parakeet_tiny\.safetensors.*tokenizer\.model"):
        load_embedded("parakeet_tiny", PARAKEET_TINY, tmp_path)


def test_embedded_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    small = dataclasses.replace(PARAKEET_TINY, vocab_size=30)
    modules = build_modules(small)
    tensors = {
        f"{prefix}.{name}": tensor.clone()
        for prefix, module in zip(MODULE_PREFIXES, modules, strict=True)
        for name, tensor in module.state_dict().items()
    }
    path = tmp_path / "parakeet_tiny.safetensors"
    save_file(tensors, path)
    weights = load_embedded("parakeet_tiny", small, tmp_path)
    for prefix, module in zip(MODULE_PREFIXES, weights.modules, strict=True):
        assert all(
            torch.equal(tensor, tensors[f"{prefix}.{name}"]) for name, tensor in module.state_dict().items()
        )


def test_embedded_weights_of_another_size_are_named(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    path = tmp_path / "parakeet_tiny.safetensors"
    save_file({"encoder.nothing": torch.zeros(1)}, path)
    with pytest.raises(UnavailableError, match=f"{path}: does not fit the encoder"):
        load_embedded("parakeet_tiny", PARAKEET_TINY, tmp_path)
