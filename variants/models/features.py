"""Log-mel features equal to those of NeMo's ``AudioToMelSpectrogramPreprocessor`` (dither and pad off).

The formulas are those of NeMo 3.0's ``FilterbankFeatures`` and of Slaney's Auditory Toolbox (1998)
for the mel scale; the code is NumPy in float32, in blocks, so that an hour costs no more memory than
its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.protocols import FeatureBatch, Segment

_LOG_GUARD = np.float32(2.0**-24)
_STD_GUARD = 1e-5
_BLOCK_FRAMES = 512


@dataclass(frozen=True)
class FeatureConfig:
    """How a model family hears; the defaults are Parakeet-TDT's."""

    n_mels: int = 128
    window_s: float = 0.025
    hop_s: float = 0.01
    n_fft: int = 512
    preemph: float = 0.97
    normalize: bool = True
    """Zero mean and unit deviation of each bin over the segment."""


class LogMel:
    """``harness.protocols.Features``. Immutable once built: threads may share it."""

    def __init__(self, config: FeatureConfig, sample_rate: int) -> None:
        self._hop = round(config.hop_s * sample_rate)
        self._n_fft = config.n_fft
        self._preemph = np.float32(config.preemph)
        self._normalize = config.normalize
        self._window = np.hanning(round(config.window_s * sample_rate)).astype(np.float32)
        self._mel = mel_filterbank(sample_rate, config.n_fft, config.n_mels).T.copy()  # [n_fft / 2 + 1, F]

    def frames(self, samples: int) -> int:
        return samples // self._hop

    def __call__(self, segments: Sequence[Segment]) -> FeatureBatch:
        lengths = np.array([self.frames(len(segment.samples)) for segment in segments], np.int64)
        values = np.zeros((len(segments), self._mel.shape[1], int(lengths.max(initial=0))), np.float32)
        for row, (segment, length) in enumerate(zip(segments, lengths, strict=True)):
            values[row, :, :length] = self.of(segment.samples)
        return FeatureBatch(values, lengths)

    def of(self, samples: np.ndarray) -> np.ndarray:
        """``[F, T]`` of one clip ``[n]``, ``T = n // hop``; a view of memory laid out by frame."""
        logs = self._log_mel(samples)  # [T, F]
        if self._normalize and len(logs):
            _normalize_per_feature(logs)
        return logs.T

    def _log_mel(self, samples: np.ndarray) -> np.ndarray:
        """Frame ``t`` is centred on sample ``t * hop``; beyond the edges the signal is zero."""
        frames = self._frames(samples)
        logs = np.empty((len(frames), self._mel.shape[1]), np.float32)
        # Room for the transform, its tail zero. Only the phase depends on where in it the window lies.
        windowed = np.zeros((min(_BLOCK_FRAMES, len(frames)), self._n_fft), np.float32)
        for first in range(0, len(frames), _BLOCK_FRAMES):
            block = frames[first : first + _BLOCK_FRAMES]
            np.multiply(block, self._window, out=windowed[: len(block), : len(self._window)])
            spectrum = np.fft.rfft(windowed[: len(block)])  # [t, n_fft / 2 + 1], complex64
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            np.log(power @ self._mel + _LOG_GUARD, out=logs[first : first + len(block)])
        return logs

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        """Overlapping view ``[T, window]`` of the pre-emphasized signal."""
        # torch.stft centres the window in n_fft and the frame on its hop, hence half of n_fft of
        # zeros before the signal and half of the slack (n_fft - window) skipped.
        width = len(self._window)
        before = self._n_fft // 2 - (self._n_fft - width) // 2
        emphasized = np.zeros(before + len(samples) + width, np.float32)
        signal = emphasized[before : before + len(samples)]
        signal[:] = samples
        signal[1:] -= self._preemph * samples[:-1]
        views = np.lib.stride_tricks.sliding_window_view(emphasized, width)
        count = len(samples) // self._hop
        frames: np.ndarray = views[: count * self._hop : self._hop]
        return frames


def _normalize_per_feature(logs: np.ndarray) -> None:
    """Zero mean and unit deviation of each column of ``[T, F]``, in place.

    The deviation divides by ``T - 1``; one frame alone has none and becomes zero.
    """
    frames = len(logs)
    logs -= logs.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("tf,tf->f", logs, logs, dtype=np.float64)
    deviation = np.sqrt(squares / (frames - 1)) if frames > 1 else np.zeros_like(squares)
    logs /= (deviation + _STD_GUARD).astype(np.float32)


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles of equal area on Slaney's mel scale, float32 ``[n_mels, n_fft / 2 + 1]``."""
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate / 2), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles: np.ndarray = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (upper - lower))
    return triangles.astype(np.float32)


# Slaney's scale: linear to 1 kHz (15 mel), then logarithmic, 27 steps for a factor of 6.4.
_LINEAR_HZ = 200.0 / 3.0
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + float(np.log(hz / _KNEE_HZ)) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, above)
