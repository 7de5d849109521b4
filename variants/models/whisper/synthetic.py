"""Synthetic weights of any size of Whisper: seeded, and made so that greedy search ends where speech would.

Two coordinates of the decoder's residual stream are kept free of everything else. One rises with the
position, and only the embedding of the end of text has a share in it, so that the end outweighs every word
about ``tokens_per_speech_s`` × 30 tokens after the start, whatever is in the window (and at once after a
prompt that long). The other is a constant by which timestamps are less likely than words. All else is
noise of unit variance to which every layer adds: which words are chosen depends on the audio, so that an
error shows.

The magnitudes follow from the logits' distribution. With embeddings of deviation ``s / sqrt(D)`` and a
normalized state, logits have deviation ``s``, and the largest of 50,000 is about ``4.2 s``; the token just
heard, whose embedding is still in the state, gets ``s² < 4.2 s``, so that it is not repeated forever.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch

from harness.errors import UsageError
from harness.protocols import BuildProgress, silent
from variants.models.synthetic import draw_uniform
from variants.models.whisper.architecture import WhisperArchitecture, build_modules
from variants.models.whisper.rules import TIMESTAMPS, end_of_text
from variants.models.whisper.weights import WhisperWeights

SCHEME = 1
"""Part of the weights' hash: raise it whenever the numbers drawn here change."""

_WINDOW_S = 30.0
_START = 4  # tokens that a window begins with
_LOGIT_DEVIATION = 3.0
_LARGEST = 4.2 * _LOGIT_DEVIATION  # of as many words as a vocabulary has
_STATE_DEVIATION = math.sqrt(2.0)  # of the residual stream: positions, and as much again from the layers
_RISE = 20  # positions over which the end rises to as likely as the likeliest word
_END_SHARE, _TIMESTAMP_SHARE, _CONSTANT = 6.0, 6.0, 2.0
_RESIDUAL_OUTPUTS = ("attn.out.weight", "mlp.2.weight")
_END, _LESS_LIKELY = -1, -2  # the two coordinates


def build_synthetic(
    size: WhisperArchitecture, seed: int, tokens_per_speech_s: float, progress: BuildProgress = silent
) -> WhisperWeights:
    """Raises ``UsageError`` for a rate whose tokens no window holds."""
    tokens = round(tokens_per_speech_s * _WINDOW_S)
    if not _RISE < tokens < size.n_text_ctx // 2:
        raise UsageError(
            f"model.tokens_per_speech_s={tokens_per_speech_s}: a window of 30 s would have {tokens} tokens; "
            f"choose more than {_RISE} and fewer than {size.n_text_ctx // 2}"
        )
    modules = build_modules(size, initialize=False)
    _draw(modules, size, seed, progress)
    _shape_end(modules, size, _START + tokens)
    identity = json.dumps([SCHEME, seed, tokens, asdict(size)], sort_keys=True)
    return WhisperWeights(
        modules,
        size,
        {
            "weights": "synthetic",
            "weights_hash": hashlib.sha256(identity.encode()).hexdigest(),
            "seed": seed,
            "tokens_per_window": tokens,
        },
    )


def _draw(modules: Any, size: WhisperArchitecture, seed: int, progress: BuildProgress) -> None:
    """Fill every parameter. Tensors are independent, so threads share them out."""
    named = [(name, parameter.data) for name, parameter in modules.named_parameters()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(lambda item: _draw_tensor(item[0], item[1], size, seed), named)
        for count, _ in enumerate(drawn, 1):
            progress("drawing weights", count, len(named))


def _draw_tensor(name: str, tensor: torch.Tensor, size: WhisperArchitecture, seed: int) -> None:
    if "ln" in name.split(".")[-2]:
        tensor.fill_(float(name.endswith("weight")))
    elif name.endswith("bias"):
        tensor.zero_()
    else:
        draw_uniform(tensor, name, seed, _deviation(name, tensor, size))
    if name.endswith(_RESIDUAL_OUTPUTS) and name.startswith("decoder"):
        tensor[_LESS_LIKELY:] = 0.0


def _deviation(name: str, tensor: torch.Tensor, size: WhisperArchitecture) -> float:
    if name == "decoder.positional_embedding":
        return 1.0
    if name == "decoder.token_embedding.weight":
        return _LOGIT_DEVIATION / math.sqrt(size.n_text_state)
    fan_in = tensor[0].numel()
    if name.startswith("encoder.conv"):
        return math.sqrt(2.0 / fan_in)  # a rectifier follows
    if name.endswith(_RESIDUAL_OUTPUTS):
        outputs = 2 * size.n_audio_layer if name.startswith("encoder") else 3 * size.n_text_layer
        return 1.0 / math.sqrt(outputs * fan_in)
    return 1.0 / math.sqrt(fan_in)


def _shape_end(modules: Any, size: WhisperArchitecture, end_position: int) -> None:
    """The two coordinates, in the tables of positions and of tokens."""
    positions = modules.decoder.positional_embedding.data  # [context, D]
    embedding = modules.decoder.token_embedding.weight.data  # [V, D]
    level = _LARGEST * _STATE_DEVIATION / _END_SHARE  # where the end is as likely as the likeliest word
    rise = (torch.arange(len(positions)) - (end_position - _RISE)) / _RISE
    positions[:, _END] = level * rise.clamp(0.0, 3.0)
    positions[:, _LESS_LIKELY] = _CONSTANT
    embedding[:, _LESS_LIKELY:] = 0.0
    embedding[-TIMESTAMPS:, _LESS_LIKELY] = -_TIMESTAMP_SHARE
    embedding[end_of_text(size)] = 0.0
    embedding[end_of_text(size), _END] = _END_SHARE
