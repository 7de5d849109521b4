"""WebRTC's noise suppressor for a batch of clips: the algorithm of the library that ``denoise=webrtc`` calls.

A high-pass filter at 100 Hz, transforms of 256 samples every 160, a gain for each bin
(``variants.frontend.device.webrtc_gains``), and overlap-add. Levels are those of 16-bit samples, to which
input and output are rounded as the library's are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pad

from variants.frontend.device.webrtc_gains import LONG, STRENGTHS, Strength, gains

FRAME = 160
DELAY = 96
"""Samples by which the library's output is late, which is made good here."""

_FFT = DELAY + FRAME
_FULL_SCALE = 32768.0
_HIGH_PASS = ((0.97261, -1.94523, 0.97261), (-1.94448, 0.94598))


class BatchWebrtc:
    """Float32 ``[B, n]`` (zero beyond each clip's length) at 16 kHz to the same, at one ``level``: 0 (only
    the high-pass filter) to 4."""

    def __init__(self, level: int, device: torch.device) -> None:
        self._strength = STRENGTHS[level - 1] if level else None
        quarter = np.pi / (2 * DELAY) * np.arange(DELAY)
        shape = np.concatenate((np.sin(quarter), np.ones(FRAME - DELAY), np.cos(quarter)))
        self._shape = torch.from_numpy(shape.astype(np.float32)).to(device)
        self._forced, self._free = (torch.from_numpy(each).to(device) for each in _high_pass_matrices())

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        pcm = (samples * _FULL_SCALE).clamp(-_FULL_SCALE, _FULL_SCALE - 1).trunc()
        late = 0 if self._strength is None else DELAY
        count = -(-(samples.shape[1] + late) // FRAME)
        cleaned = self._high_passed(pad(pcm, (0, count * FRAME - pcm.shape[1])))
        if self._strength is not None:
            cleaned = self._suppressed(cleaned, self._strength)
        found = cleaned[:, late : late + samples.shape[1]].clamp(-_FULL_SCALE, _FULL_SCALE - 1)
        return (found.abs() + 0.5).floor() * found.sign() / _FULL_SCALE

    def _high_passed(self, samples: torch.Tensor) -> torch.Tensor:
        """``[B, T * 160]`` to the same; of the frame before, a frame needs the last two outputs."""
        forced = pad(samples, (2, 0)).unfold(1, FRAME + 2, FRAME) @ self._forced  # [B, T, 160]
        last = forced[..., -2:].transpose(0, 1).contiguous()  # [T, B, 2]
        for frame in range(1, len(last)):
            last[frame] += last[frame - 1] @ self._free[:, -2:]
        before = pad(last[:-1].transpose(0, 1), (0, 0, 1, 0))  # [B, T, 2]
        return (forced + before @ self._free).flatten(1)

    def _suppressed(self, samples: torch.Tensor, strength: Strength) -> torch.Tensor:
        """``[B, T * 160]`` to as many, late by ``DELAY``."""
        frames = pad(samples, (DELAY, 0)).unfold(1, _FFT, FRAME)  # [B, T, 256]
        sounds = (frames.square().sum(-1) > 0.0).T  # [T, B]
        frames = frames * self._shape
        transformed = torch.fft.rfft(frames).transpose(0, 1)  # [T, B, F]
        gain, speech = gains(transformed, sounds, strength)
        filtered = torch.fft.irfft(transformed * gain, _FFT).transpose(0, 1)  # [B, T, 256]
        scale = _given_back(frames, filtered, speech.T, strength)
        scale = torch.where((sounds.cumsum(0) - 1 > LONG).T, scale, 1.0)
        return _overlapped(filtered * self._shape * scale[..., None])


def _given_back(
    frames: torch.Tensor, filtered: torch.Tensor, speech: torch.Tensor, strength: Strength
) -> torch.Tensor:
    """The scale of each frame ``[B, T]`` by how much of its energy is left: speech is given some back."""
    if not strength.gives_back:
        return torch.ones_like(speech)
    left = (filtered.square().sum(-1) / (frames.square().sum(-1) + 1.0)).sqrt()
    louder = torch.where(left > 0.5, torch.minimum(1.0 + 1.3 * (left - 0.5), 1.0 / left), 1.0)
    quieter = torch.where(left < 0.5, 1.0 - 0.3 * (0.5 - left.clamp(min=strength.floor)), 1.0)
    return speech * louder + (1.0 - speech) * quieter


def _overlapped(frames: torch.Tensor) -> torch.Tensor:
    """``[B, T, 256]`` to ``[B, T * 160]``: each frame begins in the last 96 samples of the one before."""
    out = frames[..., :FRAME].clone()
    out[:, 1:, :DELAY] += frames[:, :-1, FRAME:]
    return out.flatten(1)


def _high_pass_matrices() -> tuple[np.ndarray, np.ndarray]:
    """The library's high-pass filter over a frame: of its input and the two samples before ``[162, 160]``,
    and of the two outputs before ``[2, 160]``."""
    (b0, b1, b2), (a1, a2) = _HIGH_PASS
    inputs = np.eye(FRAME + 4, FRAME + 2)
    outputs = np.zeros((FRAME + 4, FRAME + 2))  # by what each output is made of, the two before it at the end
    outputs[FRAME + 2, 0] = outputs[FRAME + 3, 1] = 1.0
    for n in range(2, FRAME + 2):
        forced = b0 * inputs[:, n] + b1 * inputs[:, n - 1] + b2 * inputs[:, n - 2]
        outputs[:, n] = forced - a1 * outputs[:, n - 1] - a2 * outputs[:, n - 2]
    matrix = outputs[:, 2:].astype(np.float32)
    return matrix[: FRAME + 2], matrix[FRAME + 2 :]
