"""Silero's voice detector on a device: every window of every row at once, but for its recurrence.

The network of ``silero_vad`` (MIT licence; Silero Team, github.com/snakers4/silero-vad) with the weights
that its package ships for 16 kHz: a short-time spectrum, four convolutions and an LSTM over windows of
32 ms, each of which also hears the last 4 ms of the one before. All but the LSTM knows nothing of the past.
Convolutions over the four frames of a window are matrix products here: cuDNN's would round to TF32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from variants.frontend.device.lstm import LstmSteps
from variants.frontend.vad import silero_file

WINDOW = 512
"""Samples, at 16 kHz."""

Recurrence = Literal["torch", "kernel"]

_CONTEXT = 64
_FILE = "silero_vad.jit"  # the package's safetensors holds another training's weights
_FFT, _HOP = 256, 128
_BINS = _FFT // 2 + 1
_BLOCK = 4096  # windows: what the network computes of them at once takes some 60 MB


class BatchSilero(nn.Module):
    """Float32 ``[B, n]`` (zero beyond each row's length) to speech probabilities ``[B, ceil(n / 512)]``."""

    spectrum: torch.Tensor

    def __init__(self, device: torch.device, recurrence: Recurrence = "torch") -> None:
        """Raises ``UnavailableError`` where the installed package lacks the weights, or ``device`` what the
        recurrence's kernel needs."""
        super().__init__()
        weights = _weights()
        self.register_buffer(
            "spectrum", weights["stft.forward_basis_buffer"][:, 0].T.contiguous()
        )  # [256, 258]
        self.convolutions = nn.ModuleList(_convolutions(weights))
        self.recurrence = nn.LSTM(128, 128, batch_first=True)
        own = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.recurrence.load_state_dict({f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in own})
        self.output = _dense(weights, "decoder.decoder.2", 1, 1)
        self.requires_grad_(False)
        self.to(device)
        self._steps = LstmSteps(self.recurrence.all_weights[0][1]) if recurrence == "kernel" else None

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        count = -(-samples.shape[1] // WINDOW)
        padded = functional.pad(samples, (_CONTEXT, count * WINDOW - samples.shape[1]))
        windows = padded.unfold(1, _CONTEXT + WINDOW, WINDOW)  # [B, W, 576]
        block = max(1, _BLOCK // max(1, len(samples)))
        parts = [self._heard(windows[:, start : start + block]) for start in range(0, max(1, count), block)]
        heard = torch.cat(parts, dim=1)  # [B, W, 128]
        return torch.sigmoid(self.output(functional.relu(self._states(heard))))[..., 0]

    def _states(self, heard: torch.Tensor) -> torch.Tensor:
        """``[B, W, 128]`` to the LSTM's states after each window."""
        if self._steps is not None:
            weights, _, biases, more_biases = self.recurrence.all_weights[0]
            return self._steps(functional.linear(heard, weights, biases + more_biases))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            states: torch.Tensor = self.recurrence(heard)[0]
        return states

    def _heard(self, windows: torch.Tensor) -> torch.Tensor:
        """What the recurrence is given of each window: ``[B, w, 576]`` to ``[B, w, 128]``."""
        mirrored = torch.cat((windows, windows[..., -_CONTEXT - 1 : -1].flip(-1)), dim=-1)
        parts = mirrored.unfold(-1, _FFT, _HOP) @ self.spectrum  # [B, w, 4, 2 * 129]
        values = (parts[..., :_BINS].square() + parts[..., _BINS:].square()).sqrt()
        values = values.flatten(-2)  # frames, then bins
        for convolution in self.convolutions:
            values = functional.relu(convolution(values))
        return values


def _weights() -> Mapping[str, torch.Tensor]:
    """Of the network for 16 kHz, by its own names."""
    of_all = torch.jit.load(silero_file(_FILE), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    own = "_model."
    return {name.removeprefix(own): value for name, value in of_all.items() if name.startswith(own)}


def _convolutions(weights: Mapping[str, torch.Tensor]) -> list[nn.Linear]:
    """The encoder's four, each over all frames of a window."""
    frames, found = 4, []
    for number, stride in enumerate((1, 2, 2, 1)):
        found.append(_dense(weights, f"encoder.{number}.reparam_conv", frames, stride))
        frames = -(-frames // stride)
    return found


def _dense(weights: Mapping[str, torch.Tensor], name: str, frames: int, stride: int) -> nn.Linear:
    """A convolution ``[out, in, taps]`` over ``frames``, padded to keep their number, as one matrix."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    outputs, inputs, taps = kernel.shape
    out_frames = -(-frames // stride)
    matrix = kernel.new_zeros(out_frames, outputs, frames, inputs)
    for at in range(out_frames):
        for tap in range(taps):
            source = at * stride + tap - taps // 2
            if 0 <= source < frames:
                matrix[at, :, source] = kernel[:, :, tap]
    dense = nn.Linear(frames * inputs, out_frames * outputs)
    dense.load_state_dict({"weight": matrix.flatten(2).flatten(0, 1), "bias": bias.repeat(out_frames)})
    return dense
