"""Log-mel features of a batch of waveforms in PyTorch: where the encoder runs, and in training.

The formulas are those of ``variants.models.features``, to whose output tests hold this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from harness.protocols import FeatureBatch, Segment
from variants.models.features import FeatureConfig, mel_filterbank
from variants.upload import Upload

_LOG_GUARD = 2.0**-24
_STD_GUARD = 1e-5


class BatchLogMel(nn.Module):
    """Waveforms ``[B, n]`` (zero beyond each length) to features ``[B, F, T]`` and frame counts ``[B]``."""

    window: torch.Tensor
    mel: torch.Tensor

    def __init__(self, config: FeatureConfig, sample_rate: int) -> None:
        super().__init__()
        self.hop = round(config.hop_s * sample_rate)
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
            self.hop,
            len(self.window),
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )  # [B, n_fft / 2 + 1, T + 1]
        logs = torch.log(self.mel @ spectrum.abs().square() + _LOG_GUARD)
        frames = self.frames(lengths)
        return normalized(logs[:, :, : samples.shape[1] // self.hop], frames), frames

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames of so many samples."""
        return lengths // self.hop

    def of_frames(self, samples: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Log-mel ``[B, T, F]``, not normalized, of every frame that lies within ``samples`` ``[B, n]``: a
        sample for pre-emphasis, then frames a hop apart. Beyond ``ends`` ``[B]`` there is silence."""
        emphasized = samples[:, 1:] - self._preemph * samples[:, :-1]
        emphasized = emphasized * (torch.arange(1, samples.shape[1], device=samples.device) < ends[:, None])
        frames = emphasized.unfold(1, len(self.window), self.hop) * self.window  # [B, T, window]
        # Only the phase depends on where in the transform the window lies.
        spectrum = torch.fft.rfft(frames, self._n_fft)  # [B, T, n_fft / 2 + 1]
        return torch.log(spectrum.abs().square() @ self.mel.T + _LOG_GUARD)


def normalized(logs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation of each bin over the valid frames; zero beyond them."""
    valid = (torch.arange(logs.shape[2], device=logs.device) < frames[:, None])[:, None]  # [B, 1, T]
    count = frames[:, None, None]
    centred = (logs - (logs * valid).sum(2, keepdim=True) / count) * valid
    deviation = (centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + _STD_GUARD)


class DeviceLogMel:
    """``harness.protocols.Features`` on ``device``: samples go up once, features never come back.

    For one thread at a time.
    """

    def __init__(self, config: FeatureConfig, sample_rate: int, device: torch.device) -> None:
        if not config.normalize:
            raise ValueError("features on a device are normalized")
        self._hop = round(config.hop_s * sample_rate)
        self._device = device
        self._log_mel = BatchLogMel(config, sample_rate).to(device)
        self._upload = Upload(device)

    def frames(self, samples: int) -> int:
        return samples // self._hop

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        counts = np.array([len(segment.samples) for segment in segments], np.int64)
        if not len(counts):
            return FeatureBatch(self._log_mel.mel.new_zeros(0, len(self._log_mel.mel), 0), counts)
        return self._of(self._upload([segment.samples for segment in segments]), counts)

    @torch.inference_mode()
    def of_stretches(self, samples: torch.Tensor, stretches: np.ndarray) -> FeatureBatch:
        """Of stretches ``[S, 3]`` (row, start, end) of ``samples`` ``[B, n]``, which lie on the device."""
        row, start, _ = torch.from_numpy(stretches).to(self._device).T
        width = int((stretches[:, 2] - stretches[:, 1]).max())
        # One gather for all rows; what it reads beyond a stretch's end is masked with the padding.
        first = row * samples.shape[1] + start
        at = first[:, None] + torch.arange(width, device=self._device)
        gathered = samples.flatten()[at.clamp(max=samples.numel() - 1)]
        return self._of(gathered, stretches[:, 2] - stretches[:, 1])

    def _of(self, samples: torch.Tensor, counts: np.ndarray) -> FeatureBatch:
        """Of ``[B, n]`` with so many valid samples a row."""
        values, _ = self._log_mel(samples, torch.from_numpy(counts).to(self._device))  # [B, F, T]
        return FeatureBatch(values[:, :, : int(counts.max()) // self._hop], counts // self._hop)
