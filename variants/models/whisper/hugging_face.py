"""A Whisper in Hugging Face's folder: ``config.json`` and one or several files of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from variants.models.whisper.architecture import WhisperArchitecture
from variants.models.whisper.rules import end_of_text
from variants.models.whisper.weights import WhisperWeights

if TYPE_CHECKING:
    import torch

#: transformers' ``WhisperForConditionalGeneration`` to openai-whisper, in this order.
_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
)
_TIED = "proj_out.weight"  # the output matrix is the embedding


def read_hugging_face(
    folder: Path, files: Sequence[Path]
) -> tuple[WhisperArchitecture, dict[str, torch.Tensor]]:
    """Sizes, and float32 weights under openai-whisper's names. Raises ``UsageError`` naming the file."""
    from safetensors import SafetensorError

    size = read_size(folder / "config.json")
    try:
        return size, dict(_weights(files))
    except SafetensorError as error:
        raise UsageError(f"model.weights={folder}: {error}; fetch it again") from error


def _weights(files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors.torch import load_file

    for file in files:
        for theirs, value in load_file(file).items():
            if theirs != _TIED:
                yield openai_name(theirs), value.float()


def openai_name(theirs: str) -> str:
    for pattern, ours in _NAMES:
        theirs = re.sub(pattern, ours, theirs)
    return theirs


def read_size(path: Path) -> WhisperArchitecture:
    """Of a ``config.json``. Raises ``UsageError`` naming it."""
    try:
        config = json.loads(path.read_text())
        return WhisperArchitecture(
            n_mels=config["num_mel_bins"],
            n_audio_state=config["d_model"],
            n_audio_head=config["encoder_attention_heads"],
            n_audio_layer=config["encoder_layers"],
            n_vocab=config["vocab_size"],
            n_text_state=config["d_model"],
            n_text_head=config["decoder_attention_heads"],
            n_text_layer=config["decoder_layers"],
            n_audio_ctx=config["max_source_positions"],
            n_text_ctx=config["max_target_positions"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"model.weights: {path} is not a Whisper's configuration ({error!r})") from error


def write_hugging_face(weights: WhisperWeights, folder: Path) -> None:
    """``weights`` in float32 as transformers' ``WhisperForConditionalGeneration`` reads them."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(WhisperConfig(**_configuration(weights.size)))
    ours = weights.modules.state_dict()
    filled = {name: ours[openai_name(name)] for name in model.state_dict() if name != _TIED}
    model.load_state_dict(filled, strict=False)
    model.tie_weights()
    model.save_pretrained(folder)


def _configuration(size: WhisperArchitecture) -> dict[str, Any]:
    end = end_of_text(size)
    return {
        "vocab_size": size.n_vocab,
        "num_mel_bins": size.n_mels,
        "d_model": size.n_audio_state,
        "encoder_layers": size.n_audio_layer,
        "encoder_attention_heads": size.n_audio_head,
        "encoder_ffn_dim": 4 * size.n_audio_state,
        "decoder_layers": size.n_text_layer,
        "decoder_attention_heads": size.n_text_head,
        "decoder_ffn_dim": 4 * size.n_text_state,
        "max_source_positions": size.n_audio_ctx,
        "max_target_positions": size.n_text_ctx,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end + 1,
        "begin_suppress_tokens": None,
    }
