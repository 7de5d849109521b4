"""The front end's log-mel features for a batch of waveforms, in PyTorch, for speed on a GPU.

The formulas are those of ``variants.models.features``, to whose output a test holds this.
"""

from __future__ import annotations

import torch
from torch import nn

from variants.models.features import FeatureConfig, mel_filterbank

_LOG_GUARD = 2.0**-24
_STD_GUARD = 1e-5


class BatchLogMel(nn.Module):
    """Waveforms ``[B, n]`` (zero beyond each length) to features ``[B, F, T]`` and frame counts ``[B]``."""

    window: torch.Tensor
    mel: torch.Tensor

    def __init__(self, config: FeatureConfig, sample_rate: int) -> None:
        super().__init__()
        self._hop = round(config.hop_s * sample_rate)
        self._n_fft = config.n_fft
        self._preemph = config.preemph
        self.register_buffer(
            "window", torch.hann_window(round(config.window_s * sample_rate), periodic=False)
        )
        self.register_buffer(
            "mel", torch.from_numpy(mel_filterbank(sample_rate, config.n_fft, config.n_mels))
        )

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
        emphasized = torch.cat((samples[:, :1], samples[:, 1:] - self._preemph * samples[:, :-1]), dim=1)
        spectrum = torch.stft(
            emphasized * inside,
            self._n_fft,
            self._hop,
            len(self.window),
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )  # [B, n_fft / 2 + 1, T + 1]
        logs = torch.log(self.mel @ spectrum.abs().square() + _LOG_GUARD)
        frames = self.frames(lengths)
        return _normalized(logs[:, :, : samples.shape[1] // self._hop], frames), frames

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames of so many samples."""
        return lengths // self._hop


def _normalized(logs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation of each bin over the valid frames; zero beyond them."""
    valid = (torch.arange(logs.shape[2], device=logs.device) < frames[:, None])[:, None]  # [B, 1, T]
    count = frames[:, None, None]
    centred = (logs - (logs * valid).sum(2, keepdim=True) / count) * valid
    deviation = (centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + _STD_GUARD)
