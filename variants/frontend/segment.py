"""Speech probabilities to the stretches that are transcribed: pure functions on intervals.

Positions are samples; an interval is ``(start, end)`` with ``end`` exclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.protocols import Allocate, Segment, SpeechMap
from variants.frontend.config import SegmentConfig

Interval = tuple[int, int]

_SMOOTHING_WINDOWS = 5  # a split wants a pause, not the closure of one consonant


@dataclass(frozen=True, slots=True)
class Curve:
    """What segmentation looks at of a recording of ``samples`` samples, wherever they are."""

    probabilities: np.ndarray  # float32 [windows]
    window: int
    """Samples per window; the last may be short."""
    samples: int
    sample_rate: int
    energy: Callable[[int, int], np.ndarray]
    """Mean square of each window from the first to before the last: ``(first, last)`` to ``[n]``."""


def segment(speech: SpeechMap, config: SegmentConfig, allocate: Allocate | None = None) -> list[Segment]:
    """The stretches of ``intervals`` in order. Views of the recording, or copies in ``allocate``d memory."""
    rate, samples = speech.audio.sample_rate, speech.audio.samples
    window = round(speech.window_s * rate)

    def energy(first: int, last: int) -> np.ndarray:
        blocks = samples[first * window : last * window].reshape(last - first, window)
        mean: np.ndarray = np.square(blocks).mean(axis=1)
        return mean

    found = intervals(Curve(speech.probabilities, window, samples.shape[-1], rate, energy), config)
    return [Segment(_in(allocate, samples[start:end]), rate, start / rate) for start, end in found]


def intervals(speech: Curve, config: SegmentConfig) -> list[Interval]:
    """In order, disjoint, each at most ``max_segment_s``; empty without speech.

    Every stretch that reaches ``threshold`` and lasts ``min_speech_s`` is inside one, except where it is
    cut in two by the length limit.
    """
    rate = speech.sample_rate
    found = _close_pauses(_speech_runs(speech, config), round(config.min_silence_s * rate))
    long_enough = [(start, end) for start, end in found if end - start >= round(config.min_speech_s * rate)]
    padded = _pad(long_enough, round(config.padding_s * rate), speech.samples)
    return [piece for interval in padded for piece in _split(interval, speech, config)]


def _in(allocate: Allocate | None, samples: np.ndarray) -> np.ndarray:
    if allocate is None:
        return samples
    memory = allocate(samples.shape, samples.dtype)
    np.copyto(memory, samples)
    return memory


def _speech_runs(speech: Curve, config: SegmentConfig) -> list[Interval]:
    """Runs above the lower threshold, each from where it first reaches the upper one."""
    window, total = speech.window, speech.samples
    starts, ends = _true_runs(speech.probabilities >= config.threshold - config.hysteresis)
    onsets = np.flatnonzero(speech.probabilities >= config.threshold)
    first = np.searchsorted(onsets, starts)
    return [
        (int(onsets[index]) * window, min(int(end) * window, total))
        for index, end in zip(first, ends, strict=True)
        if index < len(onsets) and onsets[index] < end
    ]


def _true_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def _close_pauses(intervals: list[Interval], min_silence: int) -> list[Interval]:
    closed: list[Interval] = []
    for start, end in intervals:
        if closed and start - closed[-1][1] < min_silence:
            closed[-1] = (closed[-1][0], end)
        else:
            closed.append((start, end))
    return closed


def _pad(intervals: list[Interval], padding: int, total: int) -> list[Interval]:
    """Widen each interval on both sides, never past the middle of the gap to its neighbour."""
    middles = [(left[1] + right[0]) // 2 for left, right in pairwise(intervals)]
    walls = [0, *middles, total]
    return [
        (max(start - padding, walls[index]), min(end + padding, walls[index + 1]))
        for index, (start, end) in enumerate(intervals)
    ]


def _split(interval: Interval, speech: Curve, config: SegmentConfig) -> Iterator[Interval]:
    """Cut ``interval`` until no piece is above the limit, and none is shorter than ``min_speech_s``."""
    rate = speech.sample_rate
    limit = round(config.max_segment_s * rate)
    shortest = min(round(config.min_speech_s * rate), limit // 2)
    start, end = interval
    while end - start > limit:
        latest = min(start + limit, end - shortest)
        earliest = max(latest - round(config.split_search_s * rate), start + limit // 2)
        cut = _quietest(speech, min(earliest, latest), latest)
        yield start, cut
        start = cut
    yield start, end


def _quietest(speech: Curve, earliest: int, latest: int) -> int:
    """Where in ``[earliest, latest]`` speech is least likely; among equals, where it is quietest."""
    window = speech.window
    first, last = -(-earliest // window), latest // window
    if last <= first:
        return latest
    energy = _smooth(speech.energy(first, last))
    # Rounded: a detector that is sure everywhere differs only in its noise.
    probability = np.round(_smooth(speech.probabilities[first:last]), 2)
    best = int(np.lexsort((energy, probability))[0])
    return (first + best) * window + window // 2


def _smooth(values: np.ndarray) -> np.ndarray:
    reach = _SMOOTHING_WINDOWS // 2
    kernel = np.full(_SMOOTHING_WINDOWS, 1.0 / _SMOOTHING_WINDOWS)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel, mode="valid")
