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

_LOG_GUARD = 2.0**-24
_STD_GUARD = 1e-5
_GRANULE_S = 0.5  # waveforms are padded to it, so that few shapes are ever transformed


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


class DeviceLogMel:
    """``harness.protocols.Features`` on ``device``: samples go up once, features never come back.

    For one thread at a time: waveforms are gathered in one buffer of pinned memory, which is written
    again once the last transfer from it is through.
    """

    def __init__(self, config: FeatureConfig, sample_rate: int, device: torch.device) -> None:
        if not config.normalize:
            raise ValueError("features on a device are normalized")
        self._hop = round(config.hop_s * sample_rate)
        self._granule = round(_GRANULE_S * sample_rate)
        self._device = device
        self._log_mel = BatchLogMel(config, sample_rate).to(device)
        self._staged = torch.zeros(0)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def frames(self, samples: int) -> int:
        return samples // self._hop

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        counts = np.array([len(segment.samples) for segment in segments], np.int64)
        longest = int(counts.max(initial=0))
        waveforms = self._staged_rows(len(segments), -(-longest // self._granule) * self._granule)
        rows = waveforms.numpy()
        for row, segment in zip(rows, segments, strict=True):
            row[: len(segment.samples)] = segment.samples
            row[len(segment.samples) :] = 0.0
        samples = waveforms.to(self._device, non_blocking=True)  # [B, n]
        lengths = torch.from_numpy(counts).to(self._device)
        if self._copied is not None:
            self._copied.record()
        values, _ = self._log_mel(samples, lengths)  # [B, F, T]
        return FeatureBatch(values[:, :, : longest // self._hop], counts // self._hop)

    def _staged_rows(self, rows: int, samples: int) -> torch.Tensor:
        if self._copied is not None:
            self._copied.synchronize()  # the last transfer may still read it
        if self._staged.numel() < rows * samples:
            self._staged = torch.zeros(rows * samples, pin_memory=self._copied is not None)
        return self._staged[: rows * samples].view(rows, samples)
