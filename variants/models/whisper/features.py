"""Whisper's log-mel of windows of thirty seconds, equal to that of openai-whisper.

Formulas of ``whisper.audio.log_mel_spectrogram``: a periodic Hann window of 25 ms every 10 ms, reflected at
the edges; decibels/10 clamped to eight below the loudest, then shifted and scaled to about [-1, 1].
A window is padded with silence before that, so that every one is ``[F, 3000]``, however short its speech; the
lengths of a batch are the frames before that silence, not zero beyond them but what silence sounds like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UsageError
from harness.protocols import FeatureBatch, Segment
from variants.models.features import mel_filterbank

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
HOP, N_FFT = 160, 400  # samples
WINDOW_SAMPLES, WINDOW_FRAMES = 480_000, 3_000
_FLOOR = np.float32(1e-10)
_RANGE = np.float32(8.0)
_BLOCK_FRAMES = 512


class WindowLogMel:
    """``harness.protocols.Features`` on the host. Immutable once built: threads may share it."""

    def __init__(self, bins: int) -> None:
        self._hann = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic
        self._mel = mel_filterbank(SAMPLE_RATE, N_FFT, bins).T.copy()  # [n_fft / 2 + 1, F]

    def frames(self, samples: int) -> int:
        return frames(samples)

    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        values = np.empty((len(segments), self._mel.shape[1], WINDOW_FRAMES), np.float32)
        for row, segment in enumerate(segments):
            values[row] = self.of(check_length(segment).samples, WINDOW_SAMPLES)
        return FeatureBatch(values, _lengths(segments))

    def of(self, samples: np.ndarray, padded: int) -> np.ndarray:
        """``[F, padded // 160]`` of ``[n]`` followed by silence up to ``padded`` samples."""
        logs = np.full((padded // HOP, self._mel.shape[1]), np.log10(_FLOOR), np.float32)  # [T, F]
        frames = self._frames(samples, padded)
        for first in range(0, len(frames), _BLOCK_FRAMES):
            spectrum = np.fft.rfft(frames[first : first + _BLOCK_FRAMES] * self._hann)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            logs[first : first + len(power)] = np.log10(np.maximum(power @ self._mel, _FLOOR))
        np.maximum(logs, logs.max(initial=np.log10(_FLOOR)) - _RANGE, out=logs)
        return (logs.T + np.float32(4.0)) / np.float32(4.0)

    def _frames(self, samples: np.ndarray, padded: int) -> np.ndarray:
        """Overlapping view ``[T, n_fft]``, of the frames that reach into the samples: silence is known."""
        half = N_FFT // 2
        reached = min(padded // HOP, -(-(len(samples) + half) // HOP))
        signal = np.zeros(padded if padded - len(samples) < N_FFT else len(samples) + N_FFT, np.float32)
        signal[: len(samples)] = samples
        reflected = np.pad(signal, half, mode="reflect")
        return np.lib.stride_tricks.sliding_window_view(reflected, N_FFT)[::HOP][:reached]


class DeviceWindowLogMel:
    """``harness.protocols.Features`` on ``device``: samples go up once, features never come back.

    For one thread at a time: waveforms are gathered in one buffer of pinned memory.
    """

    def __init__(self, bins: int, device: torch.device) -> None:
        import torch

        self._device = device
        self._hann = torch.hann_window(N_FFT, device=device)
        self._mel = torch.from_numpy(mel_filterbank(SAMPLE_RATE, N_FFT, bins)).to(device)
        self._staged = torch.zeros(0, WINDOW_SAMPLES)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def frames(self, samples: int) -> int:
        return frames(samples)

    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        waveforms = self._rows(len(segments))
        for row, segment in zip(waveforms.numpy(), segments, strict=True):
            count = len(check_length(segment).samples)
            row[:count] = segment.samples
            row[count:] = 0.0
        samples = waveforms.to(self._device, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return FeatureBatch(self.of(samples), _lengths(segments))

    def of(self, samples: torch.Tensor) -> torch.Tensor:
        """``[B, F, 3000]`` of padded windows ``[B, 480000]``."""
        import torch

        spectrum = torch.stft(samples, N_FFT, HOP, window=self._hann, return_complex=True)  # [B, 201, T + 1]
        logs = (self._mel @ spectrum[..., :-1].abs().square()).clamp(min=float(_FLOOR)).log10()
        loudest = logs.amax(dim=(1, 2), keepdim=True)
        scaled: torch.Tensor = (torch.maximum(logs, loudest - float(_RANGE)) + 4.0) / 4.0
        return scaled

    def _rows(self, rows: int) -> torch.Tensor:
        import torch

        if self._copied is not None:
            self._copied.synchronize()  # the last transfer may still read it
        if len(self._staged) < rows:
            self._staged = torch.zeros(rows, WINDOW_SAMPLES, pin_memory=self._copied is not None)
        return self._staged[:rows]


def frames(samples: int) -> int:
    """That hold so many samples; the others of a window are silence."""
    return min(WINDOW_FRAMES, -(-samples // HOP))


def _lengths(segments: Sequence[Segment]) -> np.ndarray:
    return np.array([frames(len(segment.samples)) for segment in segments], np.int64)


def check_length(segment: Segment) -> Segment:
    """Raises ``UsageError`` for more than a window holds: what is beyond would be lost without a word."""
    if len(segment.samples) > WINDOW_SAMPLES:
        raise UsageError(
            f"a segment of {len(segment.samples) / SAMPLE_RATE:.1f} s: Whisper hears at most 30 s at once; "
            "set frontend.segment.max_segment_s=30"
        )
    return segment
