"""WebRTC's noise estimate and Wiener gain, frame after frame, for all clips of a batch at once.

As in WebRTC's ``modules/audio_processing/ns`` (BSD licence), whose parts go back to: quantiles of each bin as
the noise (Stahl, Fischer and Bippus, ICASSP 2000); the chance of speech from a likelihood ratio with the
decision-directed prior (Ephraim and Malah 1984) and from two more features of the spectrum; a Wiener gain
with a floor. The library's logarithm and exponential are rough, and so are these: its thresholds were set
by them.

What one frame is told of the noise, the frames before have learned: a loop over frames, each step of which
is some hundred small operations. On a GPU that is launches and little else; ``spectral_gate`` has no loop.
Digital silence teaches nothing and is not counted. Shapes: ``T`` frames, ``B`` clips, ``F`` = 129 bins.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch.nn.functional import pad

SHORT, LONG, WINDOW = 50, 200, 500
"""Frames: of the first noise model, of the first quantiles, between two looks at the features."""

_SMALL = 1e-4
_FIRST_BIN = 5  # of the fit of pink noise
_HISTOGRAM = 1000  # bins


@dataclass(frozen=True, slots=True)
class Strength:
    """How much a level takes away: ``over_subtraction`` times the noise, but no bin below ``floor``."""

    over_subtraction: float
    floor: float
    gives_back: bool = True
    """Whether frames of speech are given some of their energy back."""


STRENGTHS = (Strength(1.0, 0.5, False), Strength(1.0, 0.25), Strength(1.1, 0.125), Strength(1.25, 0.09))
"""Of the levels 1 to 4."""


def gains(
    transformed: torch.Tensor, sounds: torch.Tensor, strength: Strength
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gain of each bin ``[T, B, F]`` and the prior probability of speech ``[T, B]``, of complex
    ``transformed`` ``[T, B, F]``. ``sounds`` ``[T, B]`` says which frames are not digital silence."""
    heard = _Heard.of(transformed, sounds)
    modelled = _modelled_noise(heard, strength)
    quantiles, suppressor = _Quantiles(heard), _Suppressor(heard, strength)
    found, speech = torch.empty_like(heard.magnitude), torch.empty_like(heard.sum)
    for frame in range(len(sounds)):
        model = modelled[min(frame, len(modelled) - 1)]
        noise = _blended(quantiles.step(frame), model, heard.number[frame])
        suppressor.learn(frame, noise)
        found[frame] = suppressor.filter(frame, model)
        speech[frame] = suppressor.known.prior
    return found, speech


@dataclass(frozen=True)
class _Heard:
    """What is known of every frame by itself."""

    sounds: torch.Tensor  # bool [T, B]
    number: torch.Tensor  # int64 [T, B]: of the last frame that sounded, -1 before the first
    magnitude: torch.Tensor  # [T, B, F]
    log: torch.Tensor  # [T, B, F]
    sum: torch.Tensor  # [T, B], of magnitudes
    energy: torch.Tensor  # [T, B]
    flatness: torch.Tensor  # [T, B], geometric over arithmetic mean

    @classmethod
    def of(cls, transformed: torch.Tensor, sounds: torch.Tensor) -> _Heard:
        power = transformed.real.square() + transformed.imag.square()
        magnitude = power.sqrt() + 1.0
        log, total, bins = _rough_log(magnitude), magnitude.sum(-1), magnitude.shape[-1]
        geometric = _rough_exp(log[..., 1:].sum(-1) / bins)
        flatness = geometric / ((total - magnitude[..., 0]) / bins)
        number = sounds.long().cumsum(0) - 1
        return cls(sounds, number, magnitude, log, total, power.sum(-1) / bins, flatness)


def _modelled_noise(heard: _Heard, strength: Strength) -> torch.Tensor:
    """A model of pink noise (white, where the spectrum does not fall) for the first ``SHORT`` frames, from
    the mean so far of what a line fits to each frame in double logarithms: ``[t, B, F]``."""
    until = int((heard.number < SHORT).any(1).sum())
    number, bins = heard.number[: until + 1], heard.magnitude.shape[-1]
    counts = (heard.sounds[: until + 1] & (number < SHORT)).float()  # [t, B]
    place = torch.arange(bins, device=counts.device).clamp(min=_FIRST_BIN).float()
    fitted, log = bins - _FIRST_BIN, heard.log[: until + 1, :, _FIRST_BIN:]
    x = place[_FIRST_BIN:].log()
    logs, products = log.sum(-1), (log * x).sum(-1)
    denominator = x.square().sum() * fitted - x.sum().square()
    level = ((x.square().sum() * logs - x.sum() * products) / denominator).clamp(min=0.0)
    slope = ((x.sum() * logs - fitted * products) / denominator).clamp(0.0, 1.0)
    white = heard.sum[: until + 1] / bins * strength.over_subtraction
    level, slope, white = ((each * counts).cumsum(0)[..., None] for each in (level, slope, white))
    frames = counts.cumsum(0).clamp(min=1.0)[..., None]
    pink = _rough_exp(level / frames) * frames / torch.exp2(_rough_log2(place) * (slope / frames))
    return torch.where(slope > 0.0, pink, white)


def _blended(quantiles: torch.Tensor, modelled: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """``[B, F]``: from the model over to the quantiles in the first ``SHORT`` frames."""
    done = number[:, None]
    blend = (quantiles * done + modelled * (SHORT - done) / (done + 1.0)) / SHORT
    return torch.where(done < SHORT, blend, quantiles)


class _Quantiles:
    """The noise as the lower quartile of each bin so far.

    Three trackers take turns; one that has watched ``LONG`` frames is believed, and starts again. Until then
    the last is.
    """

    def __init__(self, heard: _Heard) -> None:
        clips, bins = heard.magnitude.shape[1:]
        new = heard.sum.new_full
        self._heard = heard
        self._quantile, self._density = new((3, clips, bins), 8.0), new((3, clips, bins), 0.3)
        self._believed = new((clips, bins), 0.0)
        sounds = heard.sounds.cpu().numpy()
        watched, believes = _turns(sounds)
        self._watched = torch.from_numpy(watched).to(heard.sum.device)  # [T, 3, B, 1]
        self._believes = torch.from_numpy(believes).to(heard.sum.device)  # [T, 3, B, 1]
        self._is_believed = [[bool(each.any()) for each in trackers] for trackers in believes]
        self._all_sound = [bool(each.all()) for each in sounds]

    def step(self, frame: int) -> torch.Tensor:
        """``[B, F]`` after frame number ``frame``."""
        now, watched = self._heard.log[frame], self._watched[frame]
        step = 40.0 / (self._density.clamp(min=1.0) * (watched + 1.0))
        quantile = self._quantile + torch.where(now > self._quantile, 0.25 * step, -0.75 * step)
        nearer = (watched * self._density + 50.0) / (watched + 1.0)
        density = torch.where((now - quantile).abs() < 0.01, nearer, self._density)
        if not self._all_sound[frame]:
            sounds = self._heard.sounds[frame][:, None]
            quantile = torch.where(sounds, quantile, self._quantile)
            density = torch.where(sounds, density, self._density)
        self._quantile, self._density = quantile, density
        for tracker, is_believed in enumerate(self._is_believed[frame]):
            if is_believed:
                noise = _rough_exp(quantile[tracker])
                self._believed = torch.where(self._believes[frame, tracker], noise, self._believed)
        return self._believed


def _turns(sounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``sounds`` ``[T, B]``: frames that each tracker has watched before each frame, float32
    ``[T, 3, B, 1]``, and whether it is believed after it, bool of that shape."""
    frames, clips = sounds.shape
    counter = np.repeat([[LONG * (tracker + 1) // 3] for tracker in range(3)], clips, axis=1)
    watched, believes = np.empty((frames, 3, clips), np.float32), np.zeros((frames, 3, clips), bool)
    starting = np.cumsum(sounds, axis=0) <= LONG
    for frame, sound in enumerate(sounds):
        watched[frame] = counter
        full = counter >= LONG
        believes[frame] = full & ~starting[frame] & sound
        believes[frame, -1] |= starting[frame] & sound
        counter = np.where(sound, np.where(full, 1, counter + 1), counter)
    return watched[..., None], believes[..., None]


@dataclass(frozen=True)
class _Known:
    """What the frames so far have taught: ``[B, F]``, and ``[B]`` of whole spectra."""

    magnitude: torch.Tensor
    noise: torch.Tensor
    quiet_noise: torch.Tensor  # of frames that are surely no speech
    log_ratio: torch.Tensor  # likelihood of speech to that of noise, smoothed
    ratio: torch.Tensor
    flatness: torch.Tensor
    difference: torch.Tensor
    spread: torch.Tensor  # the energy by which differences are measured
    energy: torch.Tensor  # since the features were last looked at
    prior: torch.Tensor  # probability of speech

    @classmethod
    def nothing(cls, heard: _Heard) -> _Known:
        bins, clips = heard.sum.new_zeros(heard.magnitude.shape[1:]), heard.sum.new_zeros(heard.sum.shape[1:])
        return cls(
            magnitude=bins + 1.0,
            noise=bins,
            quiet_noise=bins,
            log_ratio=bins + 0.5,
            ratio=clips + 0.5,
            flatness=clips + 0.5,
            difference=clips + 0.5,
            spread=clips,
            energy=clips,
            prior=clips + 0.5,
        )

    def unless(self, silent: torch.Tensor, before: _Known) -> _Known:
        """This, but for clips that are ``silent`` ``[B]`` what was known ``before``."""
        pairs = [(getattr(before, each.name), getattr(self, each.name)) for each in fields(self)]
        return _Known(*(torch.where(silent[:, None] if a.ndim == 2 else silent, a, b) for a, b in pairs))


class _Suppressor:
    """Speech from noise, frame after frame."""

    def __init__(self, heard: _Heard, strength: Strength) -> None:
        self._heard, self._strength = heard, strength
        new = heard.sum.new_full
        self.known = _Known.nothing(heard)
        self._noise_before = self.known.noise
        self._filtered = new(heard.magnitude.shape[1:], 0.0)
        """Magnitudes of the frame before, whether it taught anything or not."""
        self._gain = torch.ones_like(self._filtered)
        self._so_far = torch.zeros_like(self._filtered)
        self._clips = torch.arange(len(self._gain), device=self._gain.device)
        self._features = new((WINDOW, len(self._gain), 3), 0.0)
        self._model = _FeatureModel.initial(new(heard.sum.shape[1:], 0.5))
        self._all_sound = heard.sounds.all(1).tolist()
        self._any_starts = (heard.number < SHORT).any(1).tolist()
        self._looks = (heard.sounds & (heard.number % WINDOW == WINDOW - 1)).any(1).tolist()

    def learn(self, frame: int, noise: torch.Tensor) -> None:
        """Of frame number ``frame``, whose noise ``[B, F]`` is estimated without regard to speech."""
        before, now = self.known, self._heard.magnitude[frame]
        self._noise_before = before.noise
        snr = _snr(now, noise)
        prior_snr = 0.98 * (before.magnitude / (before.noise + _SMALL) * self._gain) + 0.02 * snr
        known = self._with_features(frame, before, now)
        log_ratio = before.log_ratio + 0.5 * (_log_likelihood(prior_snr, snr) - before.log_ratio)
        ratio = log_ratio.mean(-1)
        seen = self._model.speech(ratio, known.flatness, known.difference)
        prior = (before.prior + 0.1 * (seen - before.prior)).clamp(0.01, 1.0)
        odds = (1.0 - prior) / (prior + _SMALL)
        speech = 1.0 / (1.0 + odds[:, None] * _rough_exp(-log_ratio))  # [B, F]
        toward = before.quiet_noise + 0.05 * (now - before.quiet_noise)
        learned = replace(
            known,
            magnitude=now,
            noise=_noise_after(before.noise, now, speech),
            quiet_noise=torch.where(speech < 0.2, toward, before.quiet_noise),
            log_ratio=log_ratio,
            ratio=ratio,
            prior=prior,
        )
        self.known = learned if self._all_sound[frame] else learned.unless(~self._heard.sounds[frame], before)

    def _with_features(self, frame: int, known: _Known, now: torch.Tensor) -> _Known:
        """``known`` with the features of the frame; the model is renewed where a window of them is full."""
        heard, number = self._heard, self._heard.number[frame]
        energy = heard.energy[frame]
        spread = torch.where(number < LONG, (known.spread * number + energy) / (number + 1), known.spread)
        flatness = known.flatness + 0.3 * (heard.flatness[frame] - known.flatness)
        unexplained = _unexplained(now, heard.sum[frame], known.quiet_noise) / (spread + _SMALL)
        difference = known.difference + 0.3 * (unexplained - known.difference)
        total = known.energy + energy
        self._remember(frame, torch.stack((known.ratio, flatness, difference), dim=1))
        if self._looks[frame]:
            full = heard.sounds[frame] & (number % WINDOW == WINDOW - 1)
            self._model = self._model.updated(self._features[:-1], full)
            spread = torch.where(full, 0.5 * (total / WINDOW + spread), spread)
            total = torch.where(full, 0.0, total)
        return replace(known, flatness=flatness, difference=difference, spread=spread, energy=total)

    def _remember(self, frame: int, features: torch.Tensor) -> None:
        place = self._heard.number[frame] % WINDOW
        if not self._all_sound[frame]:
            kept = self._features[place, self._clips]
            features = torch.where(self._heard.sounds[frame][:, None], features, kept)
        self._features[place, self._clips] = features

    def filter(self, frame: int, modelled: torch.Tensor) -> torch.Tensor:
        """The gain ``[B, F]`` of frame number ``frame``, after ``learn``."""
        now, floor = self._heard.magnitude[frame], self._strength.floor
        before = self._filtered / (self._noise_before + _SMALL) * self._gain
        snr = 0.98 * before + 0.02 * _snr(now, self.known.noise)
        gain = (snr / (self._strength.over_subtraction + snr)).clamp(floor, 1.0)
        if self._any_starts[frame]:
            number = self._heard.number[frame][:, None]
            self._so_far = self._so_far + now
            left = self._so_far - self._strength.over_subtraction * modelled
            first = (left / (self._so_far + _SMALL)).clamp(floor, 1.0)
            gain = torch.where(number < SHORT, (gain * number + first * (SHORT - number)) / SHORT, gain)
        self._gain, self._filtered = gain, now
        return gain


def _snr(now: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return torch.where(now > noise, now / (noise + _SMALL) - 1.0, 0.0)


def _log_likelihood(prior_snr: torch.Tensor, snr: torch.Tensor) -> torch.Tensor:
    """Of speech against noise, in each bin."""
    doubled = 1.0 + 2.0 * prior_snr
    return (snr + 1.0) * (2.0 * prior_snr / (doubled + _SMALL)) - _rough_log(doubled)


def _unexplained(now: torch.Tensor, total: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Of the spectrum's variance, what the noise ``[B, F]`` does not account for: ``[B]``."""
    spread = now - total[:, None] / now.shape[-1]
    noise = noise - noise.mean(-1, keepdim=True)
    together, alone = (spread * noise).mean(-1), noise.square().mean(-1)
    return spread.square().mean(-1) - together.square() / (alone + _SMALL)


def _noise_after(noise: torch.Tensor, now: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
    """The noise, learned quickly where there is no speech. The library's loop over bins also tries the rate
    of the bin below, and takes the smaller result."""
    target = (1.0 - speech) * now + speech * noise
    slow = torch.where(speech > 0.2, 0.99, 0.9)
    below = pad(slow[:, :-1], (1, 0), value=0.9)
    return torch.minimum(slow * noise + (1.0 - slow) * target, below * noise + (1.0 - below) * target)


@dataclass(frozen=True)
class _FeatureModel:
    """Where each feature parts speech from noise, and how much it counts: ``[B]``."""

    ratio: torch.Tensor
    flatness: torch.Tensor
    difference: torch.Tensor
    weights: torch.Tensor  # [3, B]

    @classmethod
    def initial(cls, half: torch.Tensor) -> _FeatureModel:
        none = torch.zeros_like(half)
        return cls(half, half, half, torch.stack((none + 1.0, none, none)))

    def speech(self, ratio: torch.Tensor, flatness: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        """How much the features of a frame speak for speech, 0 to 1: ``[B]``."""
        apart = torch.stack((ratio - self.ratio, self.flatness - flatness, difference - self.difference))
        slope = torch.where(apart < 0.0, 8.0, 4.0)  # steeper toward noise
        return (self.weights * (0.5 * (torch.tanh(slope * apart) + 1.0))).sum(0)

    def updated(self, features: torch.Tensor, clips: torch.Tensor) -> _FeatureModel:
        """By the histograms of ``[frames, B, 3]``, for those of ``clips`` ``[B]``."""
        ratio, steady = _ratio_limit(features[..., 0])
        flat_place, flat_height = _peak(features[..., 1], 0.05)
        place, height = _peak(features[..., 2], 0.1)
        flat = (flat_height >= 0.3 * WINDOW) & (flat_place >= 0.6)
        different = (height >= 0.3 * WINDOW) & ~steady
        each = 1.0 / (1.0 + flat.float() + different.float())
        weights = torch.stack((each, flat * each, different * each))
        return _FeatureModel(
            torch.where(clips, ratio, self.ratio),
            torch.where(clips & flat, (0.9 * flat_place).clamp(0.1, 0.95), self.flatness),
            torch.where(clips, (1.2 * place).clamp(0.16, 1.0), self.difference),
            torch.where(clips, weights, self.weights),
        )


def _ratio_limit(ratios: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likelihood ratio that parts speech from noise, and whether it has hardly moved: ``[B]``."""
    counts = _histogram(ratios, 0.1)
    middles = (torch.arange(_HISTOGRAM, device=counts.device) + 0.5) * 0.1
    low = counts[:, :10]
    average = (low * middles[:10]).sum(1) / low.sum(1).clamp(min=1.0)
    mean, square = (counts * middles).sum(1) / WINDOW, (counts * middles.square()).sum(1) / WINDOW
    steady = square - average * mean < 0.05
    return torch.where(steady, 1.0, (1.2 * average).clamp(0.2, 1.0)), steady


def _peak(values: torch.Tensor, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Place and height of a histogram's highest bin, with the second highest where that is beside it."""
    counts = _histogram(values, width)
    first, first_bin = _highest(counts)
    second, second_bin = _highest(counts.scatter(1, first_bin[:, None], -1.0))
    place, other = (first_bin + 0.5) * width, (second_bin + 0.5) * width
    near = ((other - place).abs() < 2 * width) & (second > 0.5 * first)
    return torch.where(near, 0.5 * (place + other), place), torch.where(near, first + second, first)


def _histogram(values: torch.Tensor, width: float) -> torch.Tensor:
    """Of ``[frames, B]``: counts ``[B, bins]`` of bins so wide, from 0; what lies outside is not counted."""
    bins = (values * float(np.float32(1.0 / width))).floor()
    inside = (values >= 0.0) & (bins < _HISTOGRAM)
    counts = values.new_zeros(values.shape[1], _HISTOGRAM)
    return counts.scatter_add_(1, torch.where(inside, bins, 0.0).long().T, inside.float().T)


def _highest(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row, and the first bin that holds it."""
    ranked = counts * (2 * _HISTOGRAM) - torch.arange(_HISTOGRAM, device=counts.device)
    place = ranked.argmax(1)
    return counts.gather(1, place[:, None])[:, 0], place


def _rough_log2(values: torch.Tensor) -> torch.Tensor:
    """A float's bits as a number, which is the logarithm but linear between powers of two."""
    return values.contiguous().view(torch.int32).float() * 1.1920929e-7 - 126.942695


def _rough_log(values: torch.Tensor) -> torch.Tensor:
    return _rough_log2(values) * 0.69314718056


_LOG2_10 = float(_rough_log2(torch.tensor([10.0])))  # 3.309 for 3.322


def _rough_exp(values: torch.Tensor) -> torch.Tensor:
    """A power of ten, by the rough logarithm of ten."""
    return torch.exp2(values * 0.4342944819 * _LOG2_10)
