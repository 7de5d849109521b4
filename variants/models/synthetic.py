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
   is scaled to ``_CONTEXT_DEVIATION``: earlier labels matter, yet two searches that rounding parted at a
   near tie fall into step again, as they do in a trained model. At 0.25 they did not: eight perturbations
   of 30 s of states at cosine 0.999999 left 38 to 100 % of the labels; at 0.1, 90 to 100 %.
3. The output rows get deviations that fall with the token's rank, so that some tokens are frequent and
   most are rare, and biases that remove each row's mean.
4. On walks through a table of joint outputs, the duration biases are iterated until steps skip frames in
   binomial shares, and the blank bias is bisected until labels come at ``tokens_per_speech_s``. From
   there the decoder itself decodes the same states under nearby biases; its best rate is what is recorded.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import HarnessError, UsageError
from harness.protocols import EncoderOutput
from variants.content_cache import ContentCache, user_cache
from variants.decoder.cpu_synced import CpuSyncedDecoder
from variants.models.parakeet import Modules, TdtArchitecture, build_modules
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel

CALIBRATION_FILE = Path(__file__).parent / "calibration.npz"
CALIBRATION_STEP = 0.1  # of the stored levels, in deviations of a feature

SCHEME = 2
"""Part of the weights' hash: raise it whenever the numbers drawn here change."""

_STARTS = 8
_CONTEXTS, _CONTEXT_LABELS = 4, 12
_CONTEXT_DEVIATION = 0.1
_TOKEN_DECAY = 0.08
_LABEL_SHARE = 0.7  # of all steps; the others find blank
_DECODES, _RATE_AIM, _RATE_TOLERANCE = 6, 0.02, 0.08
_WORTH_KEEPING_S = 2.0
_RESIDUAL_OUTPUTS = ("linear2.weight", "self_attn.linear_out.weight", "conv.pointwise_conv2.weight")
_MODULE_NAMES = ("encoder", "prednet", "joint")


def build_synthetic(
    architecture: TdtArchitecture, seed: int, tokens_per_speech_s: float
) -> tuple[Modules, dict[str, Any]]:
    """Modules in ``eval()`` mode on the CPU in float32, and what identifies them.

    Raises ``UsageError`` for a rate that this architecture cannot emit.
    """
    if tokens_per_speech_s * architecture.frame_s > 1.0:
        raise UsageError(
            f"model.tokens_per_speech_s={tokens_per_speech_s}: more than one label per encoder frame; "
            f"choose at most {1.0 / architecture.frame_s:g}"
        )
    modules = build_modules(architecture, initialize=False)
    _draw(modules, architecture, seed)
    rate, biases = _calibrated(modules, architecture, seed, tokens_per_speech_s)
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
    modules: Modules, architecture: TdtArchitecture, seed: int, tokens_per_speech_s: float
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
        rate, biases = _Calibration(modules, architecture, seed).run(tokens_per_speech_s)
    if time.monotonic() - start > _WORTH_KEEPING_S:
        # A home that cannot be written to costs the next process its ten seconds, and no more.
        with suppress(HarnessError, OSError), cache.create(key) as folder:
            torch.save(modules[2].state_dict(), folder / "joint.pt")
            (folder / "found.json").write_text(json.dumps({"rate": rate, "biases": biases}))
    return rate, biases


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


def _draw(modules: Modules, architecture: TdtArchitecture, seed: int) -> None:
    """Fill every parameter. Tensors are independent, so threads share them out."""
    named = [
        (f"{prefix}.{name}", parameter.data)
        for prefix, module in zip(_MODULE_NAMES, modules, strict=True)
        for name, parameter in module.eval().named_parameters()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda item: _draw_tensor(item[0], item[1], architecture, seed), named):
            pass


def _draw_tensor(name: str, tensor: torch.Tensor, architecture: TdtArchitecture, seed: int) -> None:
    if "norm" in name:
        tensor.fill_(float(name.endswith("weight")))
    elif "bias" in name:
        tensor.zero_()
    else:
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        bound = math.sqrt(3.0) * _deviation(name, tensor, architecture)
        # Uniform and not normal: its bits are the same on every processor.
        tensor.uniform_(-bound, bound, generator=generator)
    if name == "prednet.prediction.embed.weight":
        tensor[architecture.blank_id] = 0.0


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


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True, slots=True)
class _Table:
    """Joint outputs of every context and frame, with the biases under calibration left out."""

    label: np.ndarray  # [contexts, clips, frames] logit of the best label
    blank: np.ndarray  # [contexts, clips, frames]
    durations: np.ndarray  # [contexts, clips, frames, durations]


@dataclass(frozen=True, slots=True)
class _Walks:
    """What greedy searches through a table did."""

    labels: int
    shares: np.ndarray  # [durations], of all steps


class _Calibration:
    """Fits the joint of freshly drawn modules to the encoder's and prediction network's outputs."""

    def __init__(self, modules: Modules, architecture: TdtArchitecture, seed: int) -> None:
        self._architecture = architecture
        encoder, prednet, joint = modules
        self._joint: Any = joint
        self._prednet: Any = prednet
        features = torch.from_numpy(calibration_features())  # [clips, F, T]
        if features.shape[1] != architecture.feature_bins:
            raise UsageError(
                f"synthetic weights are calibrated on {features.shape[1]} feature bins, "
                f"the architecture has {architecture.feature_bins}"
            )
        self._seconds = features.shape[0] * features.shape[2] * architecture.hop_s
        lengths = torch.full(features.shape[:1], features.shape[2])
        states, state_lengths = encoder(audio_signal=features, length=lengths)
        self._encoded = EncoderOutput(states.transpose(1, 2), state_lengths)  # [clips, T', D]
        self._generator = torch.Generator().manual_seed(seed)
        self._model = TdtModel(
            name="calibration",
            encoder=encoder,
            prednet=prednet,
            joint=joint,
            tokenizer=SyntheticTokenizer(architecture.vocab_size),
            device=torch.device("cpu"),
            dtype=torch.float32,
            durations=architecture.durations,
            blank_id=architecture.blank_id,
            max_symbols=architecture.max_symbols,
            frame_s=architecture.frame_s,
            feature_bins=architecture.feature_bins,
        )

    def run(self, tokens_per_speech_s: float) -> tuple[float, list[float]]:
        """Labels per second of the calibrated joint, and its blank and duration biases."""
        _standardize(self._joint.enc, self._encoded.values.flatten(0, 1), 1.0)
        contexts = self._contexts(64)
        _standardize(self._joint.pred, contexts, _CONTEXT_DEVIATION)
        hidden = self._hidden(contexts[:_CONTEXTS])
        self._shape_output(hidden)
        table = self._table(hidden)
        duration_bias = self._fit_durations(table, tokens_per_speech_s)
        blank_bias, rate = self._search_blank(table, duration_bias, tokens_per_speech_s)
        if abs(rate / tokens_per_speech_s - 1.0) > _RATE_TOLERANCE:
            raise UsageError(
                f"model.tokens_per_speech_s={tokens_per_speech_s}: synthetic weights reach {rate:.2f}; "
                "choose another rate or seed"
            )
        return rate, [blank_bias, *duration_bias.tolist()]

    def _search_blank(self, table: _Table, duration_bias: np.ndarray, wanted: float) -> tuple[float, float]:
        """The blank bias whose decoded rate is nearest to ``wanted``, and that rate.

        The table's bias is near; from it, steps that halve whenever the rate crosses what is wanted.
        """
        bias = self._fit_blank(table, duration_bias, wanted)
        step = 0.2
        tried: dict[float, float] = {}
        while len(tried) < _DECODES and bias not in tried:
            tried[bias] = self._decoded_rate(bias, duration_bias)
            if abs(tried[bias] / wanted - 1.0) <= _RATE_AIM:
                break
            up = tried[bias] > wanted
            if any((rate > wanted) != up for rate in tried.values()):
                step /= 2
            bias = round(bias + (step if up else -step), 3)
        best = min(tried, key=lambda each: abs(tried[each] - wanted))
        self._set_biases(best, duration_bias)
        return best, tried[best]

    def _contexts(self, count: int) -> torch.Tensor:
        """Outputs ``[count, P]`` of the prediction network after random labels."""
        labels = torch.randint(
            self._architecture.vocab_size, (count, _CONTEXT_LABELS), generator=self._generator
        )
        output, _ = self._prednet.predict(labels, None, add_sos=False, batch_size=count)
        return torch.as_tensor(output[:, -1])

    def _hidden(self, contexts: torch.Tensor) -> torch.Tensor:
        """Inputs of the joint's output layer: ``[contexts, clips, frames, H]``."""
        frames = self._joint.project_encoder(self._encoded.values)  # [clips, T', H]
        labels = self._joint.project_prednet(contexts)  # [contexts, H]
        return torch.relu(frames[None] + labels[:, None, None])

    def _shape_output(self, hidden: torch.Tensor) -> None:
        """Scale each output row to its deviation over ``hidden`` and remove its mean."""
        architecture, output = self._architecture, self._joint.joint_net[-1]
        flat = hidden.flatten(0, 2)
        power = flat.var(dim=0).sum().sqrt()
        rank = torch.arange(1, architecture.vocab_size + 1, dtype=torch.float32)
        extra = torch.ones(1 + len(architecture.durations))
        deviation = torch.cat((rank.pow(-_TOKEN_DECAY), extra))
        output.weight.mul_((math.sqrt(output.in_features) * deviation / power)[:, None])
        output.bias.copy_(-(output.weight @ flat.mean(dim=0)))
        self._output_bias = output.bias.clone()

    def _table(self, hidden: torch.Tensor) -> _Table:
        blank = self._architecture.blank_id
        best, blanks, durations = [], [], []
        for context in hidden:  # one at a time: all logits together would take a quarter of a gigabyte
            logits = self._joint.joint_net[-1](context)  # [clips, frames, V + 1 + durations]
            best.append(logits[..., :blank].amax(dim=-1).numpy())
            blanks.append(logits[..., blank].numpy())
            durations.append(logits[..., blank + 1 :].numpy())
        return _Table(np.stack(best), np.stack(blanks), np.stack(durations))

    def _fit_durations(self, table: _Table, rate: float) -> np.ndarray:
        """Biases ``[durations]`` under which skips are binomial with the mean that the rate implies."""
        durations = np.asarray(self._architecture.durations)
        wanted = _duration_shares(durations, _LABEL_SHARE / (self._architecture.frame_s * rate))
        bias = np.zeros(len(durations))
        for _ in range(40):
            choices = (table.durations + bias).argmax(axis=-1).ravel()
            found = np.bincount(choices, minlength=len(durations)) / choices.size
            bias += 0.4 * np.log((wanted + 0.002) / (found + 0.002))
        centred: np.ndarray = np.round(bias - bias.mean(), 2)
        return centred

    def _fit_blank(self, table: _Table, duration_bias: np.ndarray, rate: float) -> float:
        """The blank bias, by bisection: more blank, fewer labels."""
        seconds = _CONTEXTS * self._seconds
        skips = np.asarray(self._architecture.durations)[(table.durations + duration_bias).argmax(axis=-1)]
        low, high = -20.0, 20.0
        for _ in range(16):
            middle = 0.5 * (low + high)
            emits = table.label > table.blank + middle
            if _walk(emits, skips, self._architecture.max_symbols) > rate * seconds:
                low = middle
            else:
                high = middle
        return round(0.5 * (low + high), 2)

    def _decoded_rate(self, blank_bias: float, duration_bias: np.ndarray) -> float:
        """Labels per second when the decoder decodes the calibration clips with these biases."""
        self._set_biases(blank_bias, duration_bias)
        # One search is a small sample; searches that start on other frames of the same clips add to it.
        values, lengths = self._encoded.values, self._encoded.lengths
        shifted = [torch.roll(values, -start, dims=1) for start in range(_STARTS)]
        remaining = torch.cat([lengths - start for start in range(_STARTS)])
        decoded = CpuSyncedDecoder(self._model).decode(EncoderOutput(torch.cat(shifted), remaining))
        labels = sum(len(hypothesis.tokens) for hypothesis in decoded.hypotheses)
        return labels / (float(remaining.sum()) * self._architecture.frame_s)

    def _set_biases(self, blank_bias: float, duration_bias: np.ndarray) -> None:
        blank = self._architecture.blank_id
        bias = self._joint.joint_net[-1].bias
        bias.copy_(self._output_bias)
        bias[blank] += blank_bias
        bias[blank + 1 :] += torch.from_numpy(duration_bias).to(bias.dtype)


def _duration_shares(durations: np.ndarray, mean: float) -> np.ndarray:
    """Shares of steps ``[durations]`` that skip ``mean`` frames: binomial over 1 and above.

    No zeros while the mean allows it: earlier labels have little weight here, so a label that skips
    nothing comes again until the limit of labels per frame, which trained models hardly do.
    """
    count = len(durations) - 2
    chance = float(np.clip((mean - 1.0) / count, 0.02, 0.98))
    binomial = [math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(count + 1)]
    zeros = max(0.0, 1.0 - max(mean, 0.1))
    return np.array([zeros, *((1.0 - zeros) * share for share in binomial)])


def _standardize(layer: torch.nn.Linear, inputs: torch.Tensor, deviation: float) -> None:
    """Shift and scale a linear layer until each output has zero mean and ``deviation`` on ``inputs``."""
    outputs = layer(inputs)  # [N, H]
    scale = deviation / (outputs.std(dim=0) + 1e-6)
    layer.weight.mul_(scale[:, None])
    layer.bias.copy_((layer.bias - outputs.mean(dim=0)) * scale)


def _walk(emits: np.ndarray, skips: np.ndarray, max_symbols: int) -> int:
    """Labels of greedy searches over ``[contexts, clips, frames]``, one from each context and clip.

    A label changes the context, as it does in the prediction network: to the next row of the table.
    """
    contexts, clips, frames = emits.shape
    labels = 0
    for start, clip in np.ndindex(contexts, clips):
        context, frame, on_frame = start, 0, 0
        while frame < frames:
            skip = int(skips[context, clip, frame])
            if emits[context, clip, frame]:
                labels, context, on_frame = labels + 1, (context + 1) % contexts, on_frame + 1
                skip = 1 if on_frame == max_symbols and skip == 0 else skip
            else:
                skip = max(skip, 1)
            frame, on_frame = frame + skip, 0 if skip else on_frame
    return labels
