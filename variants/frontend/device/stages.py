"""The inference process's half of the front end: a batch of recordings through every stage, on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from harness.errors import UsageError
from harness.protocols import Evidence, FeatureBatch, Segment
from harness.spans import SpanRecorder
from variants.frontend.device import Options
from variants.frontend.device.resample import Resampler, resampled_length
from variants.frontend.device.rows import Rows
from variants.frontend.device.silero import WINDOW, BatchSilero
from variants.frontend.device.spectral_gate import SpectralGate
from variants.frontend.device.webrtc import BatchWebrtc
from variants.frontend.segment import Curve, Interval, intervals
from variants.models.device_features import DeviceLogMel
from variants.models.types import TdtModel
from variants.serving.utterances import Bounds
from variants.upload import Upload, round_up

_WHOLE_WINDOW_S = 0.03  # without a detector, as on the host

T = TypeVar("T")


class DeviceStages:
    """Recordings, each one segment at its own rate, to utterances whose samples stay on the device.

    Every stage is a span of its name and ends when the device has finished it. For one thread at a time.
    """

    def __init__(self, options: Options, model: TdtModel) -> None:
        """Raises ``UsageError`` for a model that takes its features from the host, ``UnavailableError``
        where the detector's weights are not installed."""
        if not isinstance(model.features, DeviceLogMel):
            raise UsageError("frontend=device leaves samples on the device: set model.features=device")
        self._options, self._device, self._synchronize = options, model.device, model.synchronize
        self._rate, self._features = model.sample_rate, model.features
        self._upload = Upload(model.device)
        self._resamplers: dict[int, Resampler] = {}
        self._denoise = _denoiser(options, model.device)
        self._detector = BatchSilero().to(model.device) if options.vad == "silero" else None
        self._batches = self._recordings = self._samples = self._padded_samples = 0

    @torch.inference_mode()
    def __call__(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> DeviceUtterances:
        given = [recording for (recording,) in recordings]
        rows = self._timed("resample", partial(self._resampled, given), spans)
        self._count(rows)
        if self._denoise is not None:
            rows = self._timed("denoise", partial(self._denoise, rows), spans)
        heard = None
        if self._detector is not None:
            heard = self._timed("vad", partial(self._detector, rows.samples), spans)
        found = self._timed("segment", partial(self._cut, rows, heard), spans)
        return DeviceUtterances.of(rows, found, self._rate, self._features)

    def _timed(self, name: str, stage: Callable[[], T], spans: SpanRecorder) -> T:
        with spans.span(name):
            value = stage()
            self._synchronize()
        return value

    def _resampled(self, given: Sequence[Segment]) -> Rows:
        """Up in one transfer for all recordings of a rate and type, whose time is in the span as well."""
        lengths = [resampled_length(len(each.samples), each.sample_rate, self._rate) for each in given]
        rows = torch.zeros(len(given), round_up(max(lengths, default=0)), device=self._device)
        for (rate, _), places in _alike(given).items():
            samples = self._upload([given[place].samples for place in places])
            if samples.dtype == torch.int16:
                samples = samples * 2.0**-15
            resampled = self._resampler(rate)(samples)[:, : rows.shape[1]]
            rows[places, : resampled.shape[1]] = resampled
        # A filter rings beyond the end of what it was given.
        return Rows(rows, np.array(lengths, np.int64)).masked(rows)

    def _resampler(self, rate: int) -> Resampler:
        if rate not in self._resamplers:
            self._resamplers[rate] = Resampler(rate, self._rate, self._device)
        return self._resamplers[rate]

    def _cut(self, rows: Rows, heard: torch.Tensor | None) -> list[list[Interval]]:
        """Where the host's rules cut each row, by what comes back of it: a probability a window, and the
        energies of the windows in which a place for a cut is looked for."""
        window = round(_WHOLE_WINDOW_S * self._rate) if heard is None else WINDOW
        counts = [-(-int(length) // window) for length in rows.lengths]
        ones = np.ones((len(counts), max(counts, default=0)), np.float32)
        probabilities = ones if heard is None else heard.cpu().numpy()
        return [
            intervals(
                Curve(probabilities[row, :count], window, int(length), self._rate, _energy(samples, window)),
                self._options.segment,
            )
            for row, (count, length, samples) in enumerate(
                zip(counts, rows.lengths, rows.samples, strict=True)
            )
        ]

    def _count(self, rows: Rows) -> None:
        self._batches += 1
        self._recordings += len(rows.lengths)
        self._samples += int(rows.lengths.sum())
        self._padded_samples += rows.samples.numel()

    def evidence(self) -> Evidence:
        own = {"denoise": self._denoise, "vad": self._detector}
        return {
            "name": "device",
            "device": str(self._device),
            "stages": ["resample", *(name for name in own if own[name] is not None), "segment", "features"],
            "batches": self._batches,
            "recordings": self._recordings,
            "rates": sorted(self._resamplers),
            "uploaded_bytes": self._upload.bytes,
            "padding_share": 1.0 - self._samples / self._padded_samples if self._padded_samples else 0.0,
        }


def _denoiser(options: Options, device: torch.device) -> Callable[[Rows], Rows] | None:
    if options.denoise == "webrtc":
        suppressor = BatchWebrtc(options.denoise_level, device)
        return lambda rows: rows.masked(suppressor(rows.samples))
    if options.denoise == "spectral_gate":
        gate = SpectralGate(options.denoise_level, device)
        return lambda rows: rows.masked(gate(rows.samples, rows.lengths))
    return None


def _alike(given: Sequence[Segment]) -> Mapping[tuple[int, str], list[int]]:
    """Numbers of the recordings of each rate and type."""
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, each in enumerate(given):
        found[each.sample_rate, each.samples.dtype.str].append(number)
    return found


def _energy(samples: torch.Tensor, window: int) -> Callable[[int, int], np.ndarray]:
    """``Curve.energy`` of one row ``[n]``."""

    def of_windows(first: int, last: int) -> np.ndarray:
        blocks = samples[first * window : last * window].view(last - first, window)
        energies: np.ndarray = blocks.square().mean(dim=1).cpu().numpy()
        return energies

    return of_windows


@dataclass(frozen=True)
class DeviceUtterances:
    """``variants.serving.utterances.Utterances`` whose samples ``[B, n]`` are on the device."""

    samples: torch.Tensor
    stretches: np.ndarray  # int64 [S, 3]: row, start, end
    counts: Sequence[int]
    bounds: Sequence[Bounds]
    model_features: DeviceLogMel

    @classmethod
    def of(
        cls, rows: Rows, found: Sequence[Sequence[Interval]], rate: int, features: DeviceLogMel
    ) -> DeviceUtterances:
        """Of the ``found`` stretches of each row, those that are long enough to be heard."""
        heard = [[(s, e) for s, e in intervals if features.frames(e - s)] for intervals in found]
        stretches = [(row, s, e) for row, intervals in enumerate(heard) for s, e in intervals]
        return cls(
            rows.samples,
            np.array(stretches, np.int64).reshape(-1, 3),
            [*map(len, heard)],
            [tuple((s / rate, e / rate) for s, e in intervals) for intervals in found],
            features,
        )

    @property
    def frames(self) -> Sequence[int]:
        return [self.model_features.frames(int(end - start)) for _, start, end in self.stretches]

    def features(self, rows: Sequence[int]) -> FeatureBatch:
        return self.model_features.of_stretches(self.samples, self.stretches[list(rows)])
