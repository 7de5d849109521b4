"""What a room and a street add to speech: noise of several colours, reverberation, gain.

Every function takes its randomness from the generator it is given and returns new float32 samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from harness.protocols import Audio

_ACTIVE_WINDOW_S = 0.02
_ACTIVE_RANGE_DB = 30.0
_DIRECT_TO_REVERBERANT_DB = 3.0
_LOWEST_HZ = 20.0
_BLOCK = 1 << 19
_FADE = 1 << 10
_MAINS_HZ = 50.0
_HUM_HARMONICS = (1, 3, 5, 7)
_HUM_FLOOR = 0.3


def white(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Equal power per hertz, unit variance, ``[samples]``."""
    del sample_rate
    return rng.standard_normal(samples, dtype=np.float32)


def pink(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Equal power per octave above 20 Hz (1/f), unit variance, ``[samples]``."""
    return _coloured(samples, sample_rate, rng, exponent=0.5)


def brown(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Six decibels down per octave above 20 Hz (1/f^2): traffic, ventilation; ``[samples]``."""
    return _coloured(samples, sample_rate, rng, exponent=1.0)


def hum(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum: 50 Hz and odd harmonics over a floor of white noise, unit variance, ``[samples]``."""
    phases = rng.random(len(_HUM_HARMONICS))
    out = white(samples, sample_rate, rng) * np.float32(_HUM_FLOOR)
    for start in range(0, samples, _BLOCK):
        part = out[start : start + _BLOCK]
        time_s = np.arange(start, start + len(part)) / sample_rate
        for harmonic, phase in zip(_HUM_HARMONICS, phases, strict=True):
            part += (np.sin(2 * np.pi * (harmonic * _MAINS_HZ * time_s + phase)) / harmonic).astype(
                np.float32
            )
    return _unit(out)


#: The colours by name: (samples, sample rate, generator) to float32 ``[samples]`` of unit variance.
COLOURS: Mapping[str, Callable[[int, int, np.random.Generator], np.ndarray]] = MappingProxyType(
    {"white": white, "pink": pink, "brown": brown, "hum": hum}
)


def mix(audio: Audio, snr_db: float, rng: np.random.Generator) -> Audio:
    """``audio`` (mono) with noise of a random colour, ``snr_db`` below its active speech.

    Pauses do not count as speech: a recording that is half silence gets no quieter noise for it.
    Digital silence comes back unchanged, since no level is ``snr_db`` below it.
    """
    names = list(COLOURS)
    colour = COLOURS[names[int(rng.integers(len(names)))]]
    level = active_rms(audio)
    if level == 0.0:
        return audio
    noise = colour(len(audio.samples), audio.sample_rate, rng)
    noise *= np.float32(level / (_rms(noise) * 10.0 ** (snr_db / 20.0)))
    noise += audio.samples
    return Audio(noise, audio.sample_rate)


def active_rms(audio: Audio) -> float:
    """Root mean square over the 20 ms windows within 30 dB of the loudest: the level of speech alone.

    A plain form of the active level of ITU-T P.56, without its hangover.
    """
    windows = _windows(audio)
    powers = np.einsum("ij,ij->i", windows, windows, dtype=np.float64) / windows.shape[1]
    if powers.size == 0 or powers.max() == 0.0:
        return 0.0
    active = powers >= powers.max() * 10.0 ** (-_ACTIVE_RANGE_DB / 10.0)
    return float(np.sqrt(powers[active].mean()))


def reverberate(audio: Audio, rt60_s: float, rng: np.random.Generator) -> Audio:
    """``audio`` (mono) in a room whose sound decays by 60 dB in ``rt60_s`` seconds; same length.

    The impulse response is a direct path and exponentially decaying white noise 3 dB below it
    (Polack's model: J.-D. Polack, 1988). The active level is kept.
    """
    taps = max(1, round(rt60_s * audio.sample_rate))
    decay = np.exp(-np.log(1000.0) * np.arange(taps) / taps)
    tail = white(taps, audio.sample_rate, rng) * decay.astype(np.float32)
    tail *= 10.0 ** (-_DIRECT_TO_REVERBERANT_DB / 20.0) / np.sqrt(np.sum(np.square(tail)))
    wet = audio.samples + _convolve(audio.samples, tail)[: len(audio.samples)]
    before, after = active_rms(audio), active_rms(Audio(wet, audio.sample_rate))
    return Audio(wet * np.float32(before / after if after else 1.0), audio.sample_rate)


def gain(audio: Audio, gain_db: float, ceiling: float = 0.99) -> Audio:
    """``audio`` amplified, then scaled down as a whole where its peak would pass ``ceiling``."""
    samples = audio.samples * np.float32(10.0 ** (gain_db / 20.0))
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak > ceiling:
        samples *= np.float32(ceiling / peak)
    return Audio(samples, audio.sample_rate)


def _coloured(samples: int, sample_rate: int, rng: np.random.Generator, exponent: float) -> np.ndarray:
    """White noise whose amplitude spectrum is divided by ``f ** exponent``.

    Made in blocks that fade into each other at constant power: an hour needs no hour-long transform.
    """
    out = np.zeros(samples, np.float32)
    size = min(_BLOCK, _fast_length(samples + 2 * _FADE))
    rise = np.sin(0.5 * np.pi * np.arange(_FADE, dtype=np.float32) / _FADE)
    for start in range(0, samples, size - _FADE):
        block = _coloured_block(size, sample_rate, rng, exponent)
        if start > 0:
            block[:_FADE] *= rise
        block[size - _FADE :] *= rise[::-1]
        part = out[start : start + size]
        part += block[: len(part)]
    return _unit(out)


def _coloured_block(size: int, sample_rate: int, rng: np.random.Generator, exponent: float) -> np.ndarray:
    spectrum = np.fft.rfft(white(size, sample_rate, rng))
    frequency = np.maximum(np.fft.rfftfreq(size, 1.0 / sample_rate), _LOWEST_HZ)
    shaped = np.fft.irfft(spectrum / frequency**exponent, size)
    return np.asarray(shaped, np.float32)


def _convolve(signal: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Linear convolution, overlap-add: ``[n]`` and ``[m]`` to ``[n + m - 1]`` float32."""
    block = max(_fast_length(8 * len(taps)), 1 << 14)
    step = block - len(taps) + 1
    response = np.fft.rfft(taps, block)
    out = np.zeros(len(signal) + block, np.float32)
    for start in range(0, len(signal), step):
        piece = np.fft.irfft(np.fft.rfft(signal[start : start + step], block) * response, block)
        out[start : start + block] += piece.astype(np.float32)
    return out[: max(0, len(signal) + len(taps) - 1)]


def _windows(audio: Audio) -> np.ndarray:
    """``[windows, samples]``; a last window that is not full is left out unless it is the only one."""
    size = max(1, round(_ACTIVE_WINDOW_S * audio.sample_rate))
    if len(audio.samples) < size:
        return audio.samples.reshape(1, -1) if len(audio.samples) else np.zeros((0, 1), np.float32)
    count = len(audio.samples) // size
    return audio.samples[: count * size].reshape(count, size)


def _fast_length(samples: int) -> int:
    return 1 << max(1, (samples - 1).bit_length())


def _unit(samples: np.ndarray) -> np.ndarray:
    level = _rms(samples)
    return samples / np.float32(level) if level > 0 else samples


def _rms(samples: np.ndarray) -> float:
    """einsum sums in float64 without a float64 copy of what may be an hour."""
    power = float(np.einsum("i,i->", samples, samples, dtype=np.float64))
    return (power / len(samples)) ** 0.5 if len(samples) else 0.0
