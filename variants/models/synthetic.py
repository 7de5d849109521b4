"""Full-size weights without a download: seeded noise, shaped so that greedy decoding resembles speech.

Weights as torch draws them decode to nothing useful: the greedy search emits a label at every step or
at none, and what is timed is a decoder that always works or never. Therefore:

1. Every tensor is uniform with deviation 1 / sqrt(fan-in), from a generator seeded by the seed and the
   tensor's name: the numbers depend neither on the order of construction nor on threads nor on a device.
   Branches that end in a residual sum are scaled by 1 / sqrt(2 * layers), as in GPT-2, so that rounding
   in half precision does not grow with depth.
2. The encoder runs once over twenty seconds of speech (``calibration.npz``). About two thirds of the
   power of its states is constant over time; the joint's projection is shifted and scaled until each
   unit has zero mean and unit deviation, so that what varies decides. The prediction network's projection
   is scaled to a deviation of 0.1: earlier labels matter, yet two searches that rounding parted at a
   near tie fall into step again, as they do in a trained model. At 0.25 they did not: eight perturbations
   of 30 s of states at cosine 0.999999 left 38 to 100 % of the labels; at 0.1, 90 to 100 %.
3. The output rows get deviations that fall with the token's rank, so that some tokens are frequent and
   most are rare, and biases that remove each row's mean.
4. The durations' and the blank's biases are fitted until labels come at ``tokens_per_speech_s``.

``calibration`` does 2 to 4: all that concerns the joint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import HarnessError, UsageError
from harness.protocols import BuildProgress, EncoderOutput, silent
from variants.content_cache import ContentCache, user_cache
from variants.models.calibration import Calibration, check_rate
from variants.models.parakeet import Modules, TdtArchitecture, build_modules

CALIBRATION_FILE = Path(__file__).parent / "calibration.npz"
CALIBRATION_STEP = 0.1  # of the stored levels, in deviations of a feature

SCHEME = 2
"""Part of the weights' hash: raise it whenever the numbers drawn here change."""

_WORTH_KEEPING_S = 2.0
_RESIDUAL_OUTPUTS = ("linear2.weight", "self_attn.linear_out.weight", "conv.pointwise_conv2.weight")
_MODULE_NAMES = ("encoder", "prednet", "joint")


def build_synthetic(
    architecture: TdtArchitecture, seed: int, tokens_per_speech_s: float, progress: BuildProgress = silent
) -> tuple[Modules, dict[str, Any]]:
    """Modules in ``eval()`` mode on the CPU in float32, and what identifies them.

    Raises ``UsageError`` for a rate that this architecture cannot emit.
    """
    check_rate(tokens_per_speech_s, architecture)
    progress("building the model's modules")
    modules = build_modules(architecture, initialize=False)
    _draw(modules, architecture, seed, progress)
    rate, biases = _calibrated(modules, architecture, seed, tokens_per_speech_s, progress)
    identity = {"scheme": SCHEME, "seed": seed, "architecture": asdict(architecture), "biases": biases}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return modules, {
        "weights": "synthetic",
        "weights_hash": digest,
        "seed": seed,
        "tokens_per_speech_s": tokens_per_speech_s,
        "achieved_tokens_per_speech_s": round(rate, 3),
    }


def _calibrated(
    modules: Modules,
    architecture: TdtArchitecture,
    seed: int,
    tokens_per_speech_s: float,
    progress: BuildProgress,
) -> tuple[float, list[float]]:
    """Calibrate the joint, or take it from an earlier calibration of the same: for the large model that
    saves each process ten seconds of one core. Returns the rate and the biases."""
    cache, key = ContentCache(user_cache("calibrations")), _key(architecture, seed, tokens_per_speech_s)
    kept = cache.get(key)
    if kept is not None:
        modules[2].load_state_dict(torch.load(kept / "joint.pt", weights_only=True))
        found = json.loads((kept / "found.json").read_text())
        return float(found["rate"]), [float(bias) for bias in found["biases"]]
    start = time.monotonic()
    with _one_thread(), torch.inference_mode():
        rate, biases = _calibration(modules, architecture, seed, progress).run(tokens_per_speech_s, progress)
    if time.monotonic() - start > _WORTH_KEEPING_S:
        # A home that cannot be written to costs the next process its ten seconds, and no more.
        with suppress(HarnessError, OSError), cache.create(key) as folder:
            torch.save(modules[2].state_dict(), folder / "joint.pt")
            (folder / "found.json").write_text(json.dumps({"rate": rate, "biases": biases}))
    return rate, biases


def _calibration(
    modules: Modules, architecture: TdtArchitecture, seed: int, progress: BuildProgress
) -> Calibration:
    """Of the joint to what the encoder makes of speech."""
    features = torch.from_numpy(calibration_features())  # [clips, F, T]
    clips, bins, frames = features.shape
    if bins != architecture.feature_bins:
        raise UsageError(
            f"synthetic weights are calibrated on {bins} feature bins, the architecture has "
            f"{architecture.feature_bins}"
        )
    progress("encoding speech to calibrate with")
    encoder, prednet, joint = modules
    states, lengths = encoder(audio_signal=features, length=torch.full((clips,), frames))
    encoded = EncoderOutput(states.transpose(1, 2), lengths)  # [clips, T', D]
    return Calibration(prednet, joint, architecture, encoded, clips * frames * architecture.hop_s, seed)


def _key(architecture: TdtArchitecture, seed: int, tokens_per_speech_s: float) -> str:
    """Of what a calibration depends on, sums in the order of this processor and this torch among it."""
    features = hashlib.sha256(CALIBRATION_FILE.read_bytes()).hexdigest()
    content = [SCHEME, asdict(architecture), seed, tokens_per_speech_s, features]
    machine = [torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.machine()]
    return hashlib.sha256(json.dumps([content, machine], sort_keys=True).encode()).hexdigest()[:32]


def calibration_features() -> np.ndarray:
    """Log-mel features of eight clips of synthetic speech, float32 ``[clips, 128, T]``, normalized.

    Real features and not noise: the rate holds on speech only if it was fitted on speech.
    """
    with np.load(CALIBRATION_FILE) as archive:
        features: np.ndarray = archive["levels"].astype(np.float32) * np.float32(CALIBRATION_STEP)
    return features


# ---------------------------------------------------------------- drawing


def _draw(modules: Modules, architecture: TdtArchitecture, seed: int, progress: BuildProgress) -> None:
    """Fill every parameter. Tensors are independent, so threads share them out."""
    named = [
        (f"{prefix}.{name}", parameter.data)
        for prefix, module in zip(_MODULE_NAMES, modules, strict=True)
        for name, parameter in module.eval().named_parameters()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(lambda item: _draw_tensor(item[0], item[1], architecture, seed), named)
        for count, _ in enumerate(drawn, 1):
            progress("drawing weights", count, len(named))


def _draw_tensor(name: str, tensor: torch.Tensor, architecture: TdtArchitecture, seed: int) -> None:
    if "norm" in name:
        tensor.fill_(float(name.endswith("weight")))
    elif "bias" in name:
        tensor.zero_()
    else:
        draw_uniform(tensor, name, seed, _deviation(name, tensor, architecture))
    if name == "prednet.prediction.embed.weight":
        tensor[architecture.blank_id] = 0.0


def draw_uniform(tensor: torch.Tensor, name: str, seed: int, deviation: float) -> None:
    """Fill a tensor, the same whatever else was drawn before it."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    bound = math.sqrt(3.0) * deviation
    # Uniform and not normal: its bits are the same on every processor.
    tensor.uniform_(-bound, bound, generator=generator)


def _deviation(name: str, tensor: torch.Tensor, architecture: TdtArchitecture) -> float:
    if name.endswith("embed.weight"):
        return 1.0
    fan_in = tensor[0].numel()
    if name.startswith("encoder.pre_encode"):
        return math.sqrt(2.0 / fan_in)  # a rectifier follows
    if name.endswith(_RESIDUAL_OUTPUTS):
        return 1.0 / math.sqrt(2.0 * architecture.layers * fan_in)
    return 1.0 / math.sqrt(fan_in)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of a sum, and with it the last bit, depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
