"""A transducer's joint, fitted until greedy search on given encoder states emits labels at a given rate.

The joint's projections are standardized over what they see; the output rows get deviations that fall with
the token's rank; duration biases are iterated until steps skip frames in binomial shares, and the blank
bias is bisected on walks through a table of joint outputs. From there the decoder itself decodes the states
under nearby biases; its best rate is what is recorded. ``synthetic`` says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.errors import UsageError
from harness.protocols import BuildProgress, EncoderOutput, silent
from variants.decoder.cpu_synced import CpuSyncedDecoder
from variants.models.parakeet import TdtArchitecture
from variants.models.tokenizer import SyntheticTokenizer
from variants.models.types import TdtModel

_STARTS = 8
_CONTEXTS, _CONTEXT_LABELS = 4, 12
_CONTEXT_DEVIATION = 0.1
_TOKEN_DECAY = 0.08
_LABEL_SHARE = 0.7  # of all steps; the others find blank
_DECODES, _RATE_AIM, _RATE_TOLERANCE = 6, 0.02, 0.08


@dataclass(frozen=True, slots=True)
class _Table:
    """Joint outputs of every context and frame, with the biases under calibration left out."""

    label: np.ndarray  # [contexts, clips, frames] logit of the best label
    blank: np.ndarray  # [contexts, clips, frames]
    durations: np.ndarray  # [contexts, clips, frames, durations]


class Calibration:
    """Fits the joint of freshly drawn modules to the outputs of an encoder and the prediction network, on
    whatever device these are."""

    def __init__(
        self,
        prednet: torch.nn.Module,
        joint: torch.nn.Module,
        architecture: TdtArchitecture,
        encoded: EncoderOutput,
        seconds: float,
        seed: int,
    ) -> None:
        """``encoded`` is what to fit to, ``seconds`` of audio in all."""
        self._architecture = architecture
        self._joint: Any = joint
        self._prednet: Any = prednet
        self._encoded, self._seconds = encoded, seconds
        self._device = encoded.values.device
        self._generator = torch.Generator().manual_seed(seed)
        self._model = TdtModel(
            name="calibration",
            encoder=torch.nn.Identity(),
            prednet=prednet,
            joint=joint,
            tokenizer=SyntheticTokenizer(architecture.vocab_size),
            device=self._device,
            dtype=torch.float32,
            durations=architecture.durations,
            blank_id=architecture.blank_id,
            max_symbols=architecture.max_symbols,
            frame_s=architecture.frame_s,
            feature_bins=architecture.feature_bins,
        )

    def run(self, tokens_per_speech_s: float, progress: BuildProgress = silent) -> tuple[float, list[float]]:
        """Labels per second of the calibrated joint, and its blank and duration biases.

        Raises ``UsageError`` for a rate that this architecture cannot emit.
        """
        check_rate(tokens_per_speech_s, self._architecture)
        _standardize(self._joint.enc, self._encoded.values.flatten(0, 1), 1.0)
        contexts = self._contexts(64)
        _standardize(self._joint.pred, contexts, _CONTEXT_DEVIATION)
        hidden = self._hidden(contexts[:_CONTEXTS])
        self._shape_output(hidden)
        table = self._table(hidden)
        duration_bias = self._fit_durations(table, tokens_per_speech_s)
        blank_bias, rate = self._search_blank(table, duration_bias, tokens_per_speech_s, progress)
        if abs(rate / tokens_per_speech_s - 1.0) > _RATE_TOLERANCE:
            raise UsageError(
                f"model.tokens_per_speech_s={tokens_per_speech_s}: synthetic weights reach {rate:.2f}; "
                "choose another rate or seed"
            )
        return rate, [blank_bias, *duration_bias.tolist()]

    def _search_blank(
        self, table: _Table, duration_bias: np.ndarray, wanted: float, progress: BuildProgress
    ) -> tuple[float, float]:
        """The blank bias whose decoded rate is nearest to ``wanted``, and that rate.

        The table's bias is near; from it, steps that halve whenever the rate crosses what is wanted.
        """
        bias = self._fit_blank(table, duration_bias, wanted)
        step = 0.2
        tried: dict[float, float] = {}
        while len(tried) < _DECODES and bias not in tried:
            progress("calibrating the label rate", len(tried), _DECODES)
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
        output, _ = self._prednet.predict(labels.to(self._device), None, add_sos=False, batch_size=count)
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
        rank = torch.arange(1, architecture.vocab_size + 1, dtype=torch.float32, device=self._device)
        extra = torch.ones(1 + len(architecture.durations), device=self._device)
        deviation = torch.cat((rank.pow(-_TOKEN_DECAY), extra))
        output.weight.mul_((math.sqrt(output.in_features) * deviation / power)[:, None])
        output.bias.copy_(-(output.weight @ flat.mean(dim=0)))
        self._output_bias = output.bias.clone()

    def _table(self, hidden: torch.Tensor) -> _Table:
        blank = self._architecture.blank_id
        best, blanks, durations = [], [], []
        for context in hidden:  # one at a time: all logits together would take a quarter of a gigabyte
            logits = self._joint.joint_net[-1](context)  # [clips, frames, V + 1 + durations]
            best.append(logits[..., :blank].amax(dim=-1).cpu().numpy())
            blanks.append(logits[..., blank].cpu().numpy())
            durations.append(logits[..., blank + 1 :].cpu().numpy())
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
        bias[blank + 1 :] += torch.from_numpy(duration_bias).to(bias)


def check_rate(tokens_per_speech_s: float, architecture: TdtArchitecture) -> None:
    """Raise ``UsageError`` for more than one label per encoder frame, or none."""
    if not 0.0 < tokens_per_speech_s * architecture.frame_s <= 1.0:
        raise UsageError(
            f"model.tokens_per_speech_s={tokens_per_speech_s}: not above 0, or more than one label per "
            f"encoder frame; choose at most {1.0 / architecture.frame_s:g}"
        )


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
