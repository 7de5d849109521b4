"""Weights of every origin, held to whoever wrote them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import UnavailableError, UsageError
from tests.variants.models.whisper.parts import EXTRA, SMALL, tiny_en
from tests.variants.models.whisper.test_features import sound
from variants.models.whisper.architecture import build_modules
from variants.models.whisper.checkpoint import load_weights
from variants.models.whisper.features import WINDOW_SAMPLES, WindowLogMel
from variants.models.whisper.hugging_face import openai_name

pytest.importorskip("whisper", reason="needs the extra whisper")


def random_modules(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    modules = build_modules(SMALL)
    with torch.no_grad():
        modules.decoder.positional_embedding.normal_()
        for name, parameter in modules.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return modules


def assert_same(found: Any, expected: Any, relative: float) -> None:
    """``relative`` to the largest number of each tensor."""
    theirs = expected.state_dict()
    assert found.state_dict().keys() == theirs.keys()
    for name, value in found.state_dict().items():
        largest = float(theirs[name].abs().max())
        assert float((value - theirs[name]).abs().max()) <= relative * largest, name


# ---------------------------------------------------------------- openai-whisper


def test_a_file_of_openai_whisper(tmp_path: Path) -> None:
    modules = random_modules()
    path = tmp_path / "mine.pt"
    torch.save({"dims": dataclasses.asdict(modules.dims), "model_state_dict": modules.state_dict()}, path)
    weights = load_weights(str(path))
    assert weights.size == SMALL
    assert len(weights.provenance["weights_hash"]) == 64
    assert_same(weights.modules, modules, 0.0)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.pt: not a checkpoint of openai-whisper"):
        load_weights(str(path))


def test_a_name_is_fetched_by_openai_whisper_s_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    import whisper

    asked = []

    def refused(url: str) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    monkeypatch.setattr(whisper.os, "makedirs", lambda *_args, **_options: None)
    with pytest.raises(UnavailableError, match=r"model\.weights=large-v3: .*no network"):
        load_weights("large-v3")
    assert asked[0].endswith("large-v3.pt")


def test_neither_file_nor_name_lists_what_may_be_given() -> None:
    with pytest.raises(UsageError, match=r"no such file, folder or name; give synthetic, a \.pt file"):
        load_weights("large-v9")


# ---------------------------------------------------------------- Hugging Face


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.encoder.conv1.bias", "encoder.conv1.bias"),
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layers.11.self_attn.k_proj.weight", "encoder.blocks.11.attn.key.weight"),
        ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        ("model.decoder.layers.0.encoder_attn.out_proj.bias", "decoder.blocks.0.cross_attn.out.bias"),
        ("model.decoder.layers.0.encoder_attn_layer_norm.weight", "decoder.blocks.0.cross_attn_ln.weight"),
        ("model.decoder.layers.0.final_layer_norm.bias", "decoder.blocks.0.mlp_ln.bias"),
        ("model.decoder.layers.0.fc2.weight", "decoder.blocks.0.mlp.2.weight"),
        ("model.decoder.layer_norm.bias", "decoder.ln.bias"),
    ],
)
def test_weights_are_found_under_the_names_of_transformers(theirs: str, ours: str) -> None:
    assert openai_name(theirs) == ours


@pytest.mark.slow
def test_a_hugging_face_folder_computes_what_transformers_computes(tmp_path: Path) -> None:
    """Seconds go into importing transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=SMALL.n_vocab, num_mel_bins=80, d_model=64,
            encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=256,
            decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=256,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path, max_shard_size="5MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = load_weights(str(tmp_path))
    mel, tokens = torch.randn(1, 80, 3000), torch.tensor([[50257, 50362, 17]])
    with torch.inference_mode():
        expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours.modules(mel, tokens), expected, atol=1e-4, rtol=1e-4)


def test_a_damaged_hugging_face_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(UsageError, match=r"config\.json is not a Whisper's configuration"):
        load_weights(str(tmp_path))
    config = {
        "num_mel_bins": 80, "d_model": 64, "encoder_attention_heads": 2, "encoder_layers": 2,
        "vocab_size": 51864, "decoder_attention_heads": 2, "decoder_layers": 2,
        "max_source_positions": 1500, "max_target_positions": 448,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="fetch it again"):
        load_weights(str(tmp_path))


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither model\.bin nor \*\.safetensors is in it"):
        load_weights(str(tmp_path))


# ---------------------------------------------------------------- CTranslate2


def written(modules: Any, folder: Path, quantization: str | None) -> Path:
    """``modules`` as CTranslate2's own specification writes them."""
    specs = pytest.importorskip("ctranslate2.specs", reason=EXTRA)

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().numpy().copy()

    def linear(spec: Any, *parts: Any) -> None:
        spec.weight = np.concatenate([array(part.weight) for part in parts])
        biases = [part.bias if part.bias is not None else torch.zeros(len(part.weight)) for part in parts]
        spec.bias = np.concatenate([array(bias) for bias in biases])

    def norm(spec: Any, module: Any) -> None:
        spec.gamma, spec.beta = array(module.weight), array(module.bias)

    def attention(spec: Any, module: Any, before: Any, crossing: bool) -> None:
        norm(spec.layer_norm, before)
        shared = [module.key, module.value]
        if crossing:
            linear(spec.linear[0], module.query)
            linear(spec.linear[1], *shared)
        else:
            linear(spec.linear[0], module.query, *shared)
        linear(spec.linear[-1], module.out)

    def layer(spec: Any, block: Any) -> None:
        attention(spec.self_attention, block.attn, block.attn_ln, crossing=False)
        if block.cross_attn is not None:
            attention(spec.attention, block.cross_attn, block.cross_attn_ln, crossing=True)
        norm(spec.ffn.layer_norm, block.mlp_ln)
        linear(spec.ffn.linear_0, block.mlp[0])
        linear(spec.ffn.linear_1, block.mlp[2])

    spec = specs.WhisperSpec(SMALL.n_audio_layer, 2, SMALL.n_text_layer, 2)
    encoder, decoder = modules.encoder, modules.decoder
    for name in ("conv1", "conv2"):
        linear(getattr(spec.encoder, name), getattr(encoder, name))
    spec.encoder.position_encodings.encodings = array(encoder.positional_embedding)
    spec.decoder.position_encodings.encodings = array(decoder.positional_embedding)
    spec.decoder.embeddings.weight = array(decoder.token_embedding.weight)
    spec.decoder.projection.weight = array(decoder.token_embedding.weight)
    norm(spec.encoder.layer_norm, encoder.ln_post)
    norm(spec.decoder.layer_norm, decoder.ln)
    for each, block in zip([*spec.encoder.layer, *spec.decoder.layer], [*encoder.blocks, *decoder.blocks]):  # noqa: B905
        layer(each, block)
    spec.register_vocabulary([str(token) for token in range(SMALL.n_vocab)])
    spec.validate()
    spec.optimize(quantization)
    spec._serialize(str(folder / "model.bin"))
    return folder


@pytest.mark.parametrize(
    ("quantization", "relative"),
    [
        (None, 0.0),
        ("float16", 1e-3),
        ("bfloat16", 4e-3),
        ("int16", 1e-3),
        ("int8", 5e-3),
        ("int8_float16", 5e-3),
    ],
)
def test_a_ctranslate2_folder_of_any_number_type(
    tmp_path: Path, quantization: str | None, relative: float
) -> None:
    modules = random_modules()
    weights = load_weights(str(written(modules, tmp_path, quantization)))
    assert weights.size == SMALL
    assert_same(weights.modules, modules, relative)


@pytest.mark.parametrize("kept", [3, 100, 5000])
def test_a_ctranslate2_file_that_was_cut_short_is_named(tmp_path: Path, kept: int) -> None:
    path = written(random_modules(), tmp_path, None) / "model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"model\.bin: not a Whisper of CTranslate2, or cut short"):
        load_weights(str(tmp_path))


@pytest.mark.slow
def test_the_real_tiny_en_hears_what_ctranslate2_hears() -> None:
    folder = tiny_en()
    ctranslate2 = pytest.importorskip("ctranslate2", reason=EXTRA)
    modules = load_weights(str(folder)).modules
    mel = WindowLogMel(80).of(sound(5.0), WINDOW_SAMPLES)[None]
    theirs = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32", intra_threads=1)
    expected = np.asarray(
        theirs.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)), to_cpu=True)
    )
    with torch.inference_mode():
        found = modules.encoder(torch.from_numpy(mel)).numpy()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
