"""Models of full size that a benchmark makes up in seconds: random weights, drawn on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from harness.protocols import EncoderOutput
from variants.models.assemble import place
from variants.models.calibration import Calibration
from variants.models.options import ModelOptions
from variants.models.parakeet import (
    PARAKEET_TDT_0_6B_V3,
    PARAKEET_TINY,
    TdtArchitecture,
    build_modules,
    build_transducer,
    keep_layers,
)
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel
from variants.models.weights import with_architecture

ARCHITECTURES: Mapping[str, TdtArchitecture] = {
    "parakeet_tdt_0_6b_v3": PARAKEET_TDT_0_6B_V3,
    "parakeet_tiny": PARAKEET_TINY,
}
CALIBRATION_UTTERANCES = 64
"""Utterances of ten seconds: the labels of one deviate by half, so the fitted rate is good to 6 %."""
_CALIBRATION_FRAMES = 125


def random_model(options: ModelOptions, device: torch.device) -> TdtModel:
    """The architecture of that name with torch's random weights: its encoder is to be timed, its labels
    mean nothing. Raises ``UsageError`` for more layers than it has."""
    torch.manual_seed(options.seed)
    architecture = ARCHITECTURES[options.name]
    with torch.device(device):
        modules = build_modules(architecture)
    keep_layers(modules[0], options.layers, options.name)
    return _placed(modules, architecture, options, device)


def speaking_transducer(
    options: ModelOptions, device: torch.device, architecture: TdtArchitecture = PARAKEET_TDT_0_6B_V3
) -> TdtModel:
    """Prediction network and joint that emit ``options.tokens_per_speech_s`` on ``random_states``; the
    encoder is the identity. Raises ``UsageError`` for a rate that they cannot emit."""
    torch.manual_seed(options.seed)
    with torch.device(device):
        prednet, joint = (module.eval() for module in build_transducer(architecture))
    seconds = CALIBRATION_UTTERANCES * _CALIBRATION_FRAMES * architecture.frame_s
    with torch.inference_mode():
        encoded = random_states(
            CALIBRATION_UTTERANCES, _CALIBRATION_FRAMES, options.seed + 1, architecture.d_model, device
        )
        calibration = Calibration(prednet, joint, architecture, encoded, seconds, options.seed)
        calibration.run(options.tokens_per_speech_s)
    return _placed((torch.nn.Identity(), prednet, joint), architecture, options, device)


def random_states(batch: int, frames: int, seed: int, width: int, device: torch.device) -> EncoderOutput:
    """Noise that moves over a few frames, as an encoder's states do: float32 ``[batch, frames, width]``.

    An utterance is that of its seed, ``seed`` and on, in whatever batch.
    """
    rows = []
    for each in range(seed, seed + batch):
        generator = torch.Generator(device=device).manual_seed(each)
        rows.append(torch.randn(frames + 4, width, generator=generator, device=device))
    noise = torch.stack(rows)
    smooth = sum(weight * noise[:, i : i + frames] for i, weight in enumerate((0.2, 0.5, 0.66, 0.5, 0.2)))
    lengths = torch.full((batch,), frames, dtype=torch.int64, device=device)
    return EncoderOutput(torch.as_tensor(smooth), lengths)


def _placed(
    modules: Any, architecture: TdtArchitecture, options: ModelOptions, device: torch.device
) -> TdtModel:
    tokenizer = SyntheticTokenizer(architecture.vocab_size)
    provenance = {"weights": f"random, seed {options.seed}"}
    return place(with_architecture(modules, tokenizer, architecture, provenance), options, device)
