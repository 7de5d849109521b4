"""What an audio set looks like: how long its recordings are, and where its seconds lie."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from harness.corpus.buckets import bucket_label, bucket_labels
from harness.corpus.manifest import AudioSet
from harness.errors import UsageError
from harness.measure.stats import nearest_rank
from harness.report.style import COLORS, QUIET, figure_of, save, style

_BARS = 30
_BAR, _LINE = COLORS[0], COLORS[1]
_ROUND_LENGTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
_TICK_DISTANCE = 0.11  # of the axis


def plot_distribution(audio_set: AudioSet, path: Path) -> None:
    """Write a PNG: a histogram of lengths over the cumulative share of seconds, and a bar per bucket.

    Recordings of unknown length are left out and counted in the title. Raises ``UsageError`` where no
    length is known or ``path`` cannot be written.
    """
    lengths_s = np.array([item.duration_s for item in audio_set.items if item.duration_s])
    if len(lengths_s) == 0:
        raise UsageError(
            f"audio set {audio_set.name!r}: no recording has a known length, so none can be drawn"
        )
    figure = figure_of(4.2)
    by_length, by_bucket = figure.subplots(1, 2, width_ratios=(3, 2))
    for axes in (by_length, by_bucket):
        style(axes)
    _draw_lengths(by_length, lengths_s, audio_set.bucket_edges_s)
    _draw_buckets(by_bucket, lengths_s, audio_set.bucket_edges_s)
    figure.suptitle(_title(audio_set, lengths_s), x=0.01, ha="left")
    save(figure, path, str(path))


def _draw_lengths(axes: Axes, lengths_s: np.ndarray, edges_s: tuple[float, ...]) -> None:
    bars = _bars(lengths_s)
    axes.set_xscale("log")
    axes.hist(lengths_s, bins=bars.tolist(), color=_BAR, label="recordings")
    for edge in edges_s:
        if bars[0] < edge < bars[-1]:
            axes.axvline(edge, color=QUIET, linestyle=":", linewidth=1, zorder=0)
    axes.set_xlabel("length (dotted: bucket edges)")
    axes.set_ylabel("recordings", color=_BAR)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks(_ticks(bars[0], bars[-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _duration(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ordered = np.sort(lengths_s)
    seconds = axes.twinx()
    seconds.plot(ordered, np.cumsum(ordered) / ordered.sum(), color=_LINE, drawstyle="steps-post")
    seconds.set_ylim(0, 1.02)
    seconds.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    seconds.set_ylabel("cumulative share of seconds", color=_LINE)


def _draw_buckets(axes: Axes, lengths_s: np.ndarray, edges_s: tuple[float, ...]) -> None:
    labels = bucket_labels(edges_s)
    bucket_of = np.array([labels.index(bucket_label(float(length), edges_s)) for length in lengths_s])
    share_of_items = np.bincount(bucket_of, minlength=len(labels)) / len(lengths_s)
    share_of_seconds = np.bincount(bucket_of, lengths_s, minlength=len(labels)) / lengths_s.sum()
    place = np.arange(len(labels))
    axes.barh(place - 0.2, share_of_items, 0.4, color=_BAR, label="of recordings")
    axes.barh(place + 0.2, share_of_seconds, 0.4, color=_LINE, label="of seconds")
    axes.set_yticks(place, labels)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("share of each bucket")
    axes.legend(frameon=False)


def _bars(lengths_s: np.ndarray) -> np.ndarray:
    """Edges of equal width on a logarithmic scale, a little wider than the lengths."""
    low, high = float(lengths_s.min()) / 1.05, float(lengths_s.max()) * 1.05
    return np.geomspace(low, high, _BARS + 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round lengths within the axis, far enough apart for their labels."""
    ticks: list[float] = []
    for tick in _ROUND_LENGTHS_S:
        if low <= tick <= high and (
            not ticks or math.log(tick / ticks[-1]) > _TICK_DISTANCE * math.log(high / low)
        ):
            ticks.append(tick)
    return ticks or [math.sqrt(low * high)]


def _title(audio_set: AudioSet, lengths_s: np.ndarray) -> str:
    unknown = len(audio_set.items) - len(lengths_s)
    parts = [
        audio_set.name,
        f"{len(lengths_s)} recordings",
        f"{_duration(float(lengths_s.sum()))} of audio",
        f"median {_duration(nearest_rank(lengths_s, 0.5))}",
        *([f"{unknown} more of unknown length"] if unknown else []),
    ]
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
