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
from variants.frontend.device.graphs import GraphedStages, Shapes, Stage
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
        self._shapes = Shapes(options.graphs_up_to_s, model.sample_rate)
        wanted = model.device.type == "cuda" and options.graphs_up_to_s > 0.0
        self._graphs = GraphedStages(model.device) if wanted else None
        self._suppressor = BatchWebrtc(options.denoise_level, model.device)
        self._gate = SpectralGate(options.denoise_level, model.device)
        detects = options.vad == "silero"
        self._detector = BatchSilero(model.device, options.recurrence) if detects else None
        self._batches = self._recordings = self._samples = self._padded_samples = 0
        self._too_long: list[float] = []

    @torch.inference_mode()
    def __call__(self, recordings: Sequence[Sequence[Segment]], spans: SpanRecorder) -> DeviceUtterances:
        given = [recording for (recording,) in recordings]
        rows = self._timed("resample", partial(self._resampled, given), spans)
        self._count(rows)
        if self._options.denoise != "none":
            rows = self._timed("denoise", partial(self._denoised, rows), spans)
        heard = None
        if self._detector is not None:
            heard = self._timed("vad", partial(self._run, "vad", self._detector, rows.samples), spans)
        found = self._timed("segment", partial(self._cut, rows, heard), spans)
        return DeviceUtterances.of(rows, found[: len(given)], self._rate, self._features)

    def warm_up(self, lengths_s: Sequence[float]) -> None:
        """A recording of each length, or of each that a graph is for."""
        longest = max(lengths_s, default=0.0)
        if self._graphs is not None:
            lengths_s = [each for each in self._shapes.lengths_s if each <= longest * 1.25 + 0.5]
        rng = np.random.default_rng(0)
        for length_s in lengths_s:
            noise = 0.1 * rng.standard_normal(max(1, round(length_s * self._rate)), dtype=np.float32)
            self([[Segment(noise, self._rate, 0.0)]], SpanRecorder())

    def _timed(self, name: str, stage: Callable[[], T], spans: SpanRecorder) -> T:
        with spans.span(name):
            value = stage()
            self._synchronize()
        return value

    def _resampled(self, given: Sequence[Segment]) -> Rows:
        """Up in one transfer for all recordings of a rate and type, whose time is in the span as well."""
        lengths = [resampled_length(len(each.samples), each.sample_rate, self._rate) for each in given]
        rows = torch.zeros(self._shape(lengths), device=self._device)
        for (rate, _), places in _alike(given).items():
            samples = self._upload([given[place].samples for place in places])
            if samples.dtype == torch.int16:
                samples = samples * 2.0**-15
            resampled = self._resampler(rate)(samples)[:, : rows.shape[1]]
            own = slice(len(given)) if len(places) == len(given) else places  # a copy, or a scatter
            rows[own, : resampled.shape[1]] = resampled
        # A filter rings beyond the end of what it was given.
        return Rows.of(rows, lengths)

    def _shape(self, lengths: Sequence[int]) -> tuple[int, int]:
        """That of a graph, where there are graphs and one is long enough."""
        longest = max(lengths, default=0)
        if self._graphs is not None:
            shape = self._shapes.padded(len(lengths), longest)
            if shape is not None:
                return shape
            self._too_long.append(longest / self._rate)
        return len(lengths), round_up(longest)

    def _run(self, name: str, stage: Stage, *inputs: torch.Tensor) -> torch.Tensor:
        """``stage`` by its graph, where ``inputs`` have the shape of one."""
        rows, samples = inputs[0].shape
        if self._graphs is None or self._shapes.padded(rows, samples) != (rows, samples):
            return stage(*inputs)
        return self._graphs.run(name, stage, *inputs)

    def _denoised(self, rows: Rows) -> Rows:
        if self._options.denoise == "webrtc":  # a loop over frames that asks the host: no graph
            return rows.masked(self._suppressor(rows.samples))
        return rows.masked(self._run("denoise", self._gate, rows.samples, rows.on_device))

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
        self._recordings += int((rows.lengths > 0).sum())
        self._samples += int(rows.lengths.sum())
        self._padded_samples += rows.samples.numel()

    def evidence(self) -> Evidence:
        own = {"denoise": self._options.denoise, "vad": self._options.vad}
        graphs = {} if self._graphs is None else self._graphs.evidence()
        return {
            **graphs,
            "name": "device",
            "device": str(self._device),
            "recurrence": self._options.recurrence,
            "stages": ["resample", *(name for name in own if own[name] != "none"), "segment", "features"],
            "batches": self._batches,
            "recordings": self._recordings,
            "rates": sorted(self._resamplers),
            "uploaded_bytes": self._upload.bytes,
            "padding_share": 1.0 - self._samples / self._padded_samples if self._padded_samples else 0.0,
            "not_engaged": self._not_engaged(),
        }

    def _not_engaged(self) -> str | None:
        if not self._too_long:
            return None
        count, longest_s = len(self._too_long), max(self._too_long)
        return (
            f"{count} batches ran without graphs, the longest recording being {longest_s:.1f} s: "
            f"raise frontend.graphs_up_to_s={self._options.graphs_up_to_s:g}, or set it to 0"
        )


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
    places: Sequence[tuple[float, float]]
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
            [(s / rate, e / rate) for _, s, e in stretches],
            features,
        )

    @property
    def frames(self) -> Sequence[int]:
        return [self.model_features.frames(int(end - start)) for _, start, end in self.stretches]

    def features(self, rows: Sequence[int]) -> FeatureBatch:
        return self.model_features.of_stretches(self.samples, self.stretches[list(rows)])
