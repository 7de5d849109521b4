"""What rooms, microphones and streets do to a batch of waveforms, on the device that holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from training.data import SAMPLE_RATE

_ACTIVE_WINDOW = 320  # samples: 20 ms
_ACTIVE_RANGE = 1e-3  # of the loudest window's power: 30 dB
_CORNER_HZ = 20.0
_MAINS_HZ = 50.0


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Shares of the batch that each change touches, and its range."""

    noise_share: float = 0.5
    snr_db: tuple[float, float] = (4.0, 30.0)
    reverberation_share: float = 0.25
    rt60_s: tuple[float, float] = (0.1, 0.5)
    filter_share: float = 0.4
    tilt_db: float = 8.0
    lowpass_share: float = 0.12
    lowpass_hz: tuple[float, float] = (3300.0, 7500.0)
    gain_db: tuple[float, float] = (-25.0, 0.0)


def augment(
    samples: torch.Tensor, lengths: torch.Tensor, how: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """``[B, n]`` with filters, reverberation, noise and gain of its own for each row."""
    inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
    level = _active_rms(samples)
    changed: torch.Tensor = _filtered(samples, how, generator) * inside
    changed = _scaled(changed, level / _active_rms(changed).clamp(min=1e-9))
    changed = (changed + _noise(changed, level, how, generator)) * inside
    gain = _amplitude(_uniform(len(samples), how.gain_db, generator))
    peak = changed.abs().amax(dim=1).clamp(min=1e-9)
    return _scaled(changed, torch.minimum(gain, peak.reciprocal()))


def _filtered(samples: torch.Tensor, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Room, microphone and telephone as one product of spectra."""
    size = _fast_length(samples.shape[1] + round(how.rt60_s[1] * SAMPLE_RATE))
    response = torch.fft.rfft(_impulses(samples, how, generator), size)
    hz = torch.fft.rfftfreq(size, 1.0 / SAMPLE_RATE, device=samples.device)
    spectrum = torch.fft.rfft(samples, size) * response * _microphone(hz, len(samples), how, generator)
    filtered: torch.Tensor = torch.fft.irfft(spectrum, size)
    return filtered[:, : samples.shape[1]]


def _impulses(samples: torch.Tensor, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Room responses ``[B, m]``: a direct path, then decaying noise (Polack 1988) in some of the rows."""
    batch, taps = len(samples), round(how.rt60_s[1] * SAMPLE_RATE)
    time_s = torch.arange(taps, device=samples.device) / SAMPLE_RATE
    decay = torch.exp(-math.log(1000.0) * time_s / _uniform(batch, how.rt60_s, generator)[:, None])
    tail: torch.Tensor = torch.randn(batch, taps, device=samples.device, generator=generator) * decay
    wet_db = _uniform(batch, (-15.0, 0.0), generator)
    wet = _amplitude(wet_db) * _chosen(batch, how.reverberation_share, generator)
    tail = tail * (wet / tail.norm(dim=1))[:, None]
    tail[:, 0] += 1.0
    return tail


def _microphone(hz: torch.Tensor, batch: int, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Gains ``[B, bins]``: a slope over the octaves, one broad bump, and in some rows a steep low-pass."""
    octaves = torch.log2(hz.clamp(min=100.0) / 1000.0)
    chosen = _chosen(batch, how.filter_share, generator)
    slope = chosen * _uniform(batch, (-how.tilt_db, how.tilt_db), generator) / 4.0
    bump = chosen * _uniform(batch, (-how.tilt_db, how.tilt_db), generator)
    centre = _uniform(batch, (-3.0, 3.0), generator)
    gain_db = slope[:, None] * octaves + bump[:, None] * torch.exp(-(octaves - centre[:, None]).square())
    cutoff = _uniform(batch, how.lowpass_hz, generator)
    lowpass = torch.sigmoid((cutoff[:, None] - hz) / 60.0)
    narrow = _chosen(batch, how.lowpass_share, generator)[:, None]
    return _amplitude(gain_db) * (1.0 - narrow + narrow * lowpass)


def _noise(
    samples: torch.Tensor, level: torch.Tensor, how: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Noise ``[B, n]`` of every colour from white to brown, some with mains hum, for some of the rows."""
    batch, size = len(samples), _fast_length(samples.shape[1])
    hz = torch.fft.rfftfreq(size, 1.0 / SAMPLE_RATE, device=samples.device).clamp(min=_CORNER_HZ)
    exponent = _uniform(batch, (0.0, 1.1), generator)[:, None]
    white = torch.randn(batch, size, device=samples.device, generator=generator)
    noise: torch.Tensor = torch.fft.irfft(torch.fft.rfft(white) * hz**-exponent, size)[:, : samples.shape[1]]
    noise = noise / _rms(noise)[:, None] + _hum(samples, generator) * _chosen(batch, 0.15, generator)[:, None]
    scale = level.clamp(min=0.003) * _amplitude(-_uniform(batch, how.snr_db, generator))
    scale = scale * _chosen(batch, how.noise_share, generator)
    return _scaled(noise, scale / _rms(noise).clamp(min=1e-9))


def _hum(samples: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    time_s = torch.arange(samples.shape[1], device=samples.device) / SAMPLE_RATE
    hum = torch.zeros_like(samples)
    for harmonic in (1, 3, 5, 7):
        phase = _uniform(len(samples), (0.0, 1.0), generator)[:, None]
        hum += torch.sin(2 * math.pi * (harmonic * _MAINS_HZ * time_s + phase)) * (3.0 / harmonic)
    return hum


def _active_rms(samples: torch.Tensor) -> torch.Tensor:
    """Level of each row's speech ``[B]``: over windows within 30 dB of its loudest."""
    count = samples.shape[1] // _ACTIVE_WINDOW
    windows = samples[:, : count * _ACTIVE_WINDOW].view(len(samples), count, _ACTIVE_WINDOW)
    power = windows.square().mean(dim=2)
    active = power >= power.amax(dim=1, keepdim=True) * _ACTIVE_RANGE
    level: torch.Tensor = ((power * active).sum(1) / active.sum(1)).sqrt()
    return level


def _rms(samples: torch.Tensor) -> torch.Tensor:
    return samples.square().mean(dim=1).sqrt()


def _uniform(count: int, between: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    low, high = between
    return low + (high - low) * torch.rand(count, device=generator.device, generator=generator)


def _chosen(count: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """1.0 for the rows that are changed, 0.0 for the others."""
    return (torch.rand(count, device=generator.device, generator=generator) < share).float()


def _scaled(samples: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Every row ``[B, n]`` times its factor ``[B]``."""
    scaled: torch.Tensor = samples * factors[:, None]
    return scaled


def _amplitude(db: torch.Tensor) -> torch.Tensor:
    return torch.pow(10.0, db / 20.0)


def _fast_length(samples: int) -> int:
    """A multiple of 4096 at or above ``samples``: short factors keep the transform fast."""
    return -(-samples // 4096) * 4096


def mask_features(features: torch.Tensor, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): two bands and two stretches become 0."""
    batch, bins, longest = features.shape
    rows = torch.arange(bins, device=features.device)
    columns = torch.arange(longest, device=features.device)
    keep = torch.ones(batch, bins, longest, dtype=torch.bool, device=features.device)
    for _ in range(2):
        width = _uniform(batch, (0.0, 16.0), generator)
        start = _uniform(batch, (0.0, 1.0), generator) * (bins - width)
        keep &= ~_between(rows, start, width)[:, :, None]
        width = torch.minimum(_uniform(batch, (0.0, 12.0), generator), frames * 0.05)
        start = _uniform(batch, (0.0, 1.0), generator) * (frames - width)
        keep &= ~_between(columns, start, width)[:, None]
    return features * keep


def _between(positions: torch.Tensor, start: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return (positions >= start[:, None]) & (positions < (start + width)[:, None])
