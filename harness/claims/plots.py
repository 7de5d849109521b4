"""The claims' pictures. Drawn without pyplot: no global figure, no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
# Okabe & Ito (2008): told apart by most colour-blind readers.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
_MOST_POINTS = 20_000


def panels(rows: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` panels that share nothing but their width."""
    figure = Figure(figsize=(9.0, 2.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for panel in axes:
        panel.grid(color="#e3e7eb", linewidth=0.7)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, axes


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write ``folder/name``; returns the name, for a finding's ``plots``."""
    figure.savefig(folder / name, dpi=140)
    return name


def distribution(axes: Axes, samples_s: Mapping[str, Floats]) -> None:
    """The share of samples above each latency, on two logarithmic axes, so that the tail is seen."""
    for color, (label, values) in zip(COLORS, samples_s.items(), strict=False):
        ordered = np.sort(values) * 1e3
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        keep = np.unique(np.geomspace(1, len(ordered), _MOST_POINTS).astype(np.int64)) - 1
        kept = len(ordered) - 1 - keep[::-1]
        axes.plot(ordered[kept], share[kept], color=color, linewidth=1.6, label=label, drawstyle="steps-pre")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for q, name in ((0.5, "p50"), (0.05, "p95"), (0.01, "p99")):
        axes.axhline(q, color="#5b6570", linewidth=0.7, linestyle=(0, (4, 4)))
        axes.annotate(name, (1.0, q), xycoords=("axes fraction", "data"), fontsize=8, color="#5b6570")
    axes.set_xlabel("latency of a chunk, ms")
    axes.set_ylabel("share above")
    axes.legend(frameon=False, fontsize=9)


def timeline(
    axes: Axes,
    label: str,
    times_s: Floats,
    latencies_s: Floats,
    color: str,
    pauses_s: Sequence[tuple[float, float]],
) -> None:
    """Every chunk at its scheduled time (the slowest of each instant, where there are too many),
    with the collector's full pauses behind them."""
    for start, end in pauses_s:
        axes.axvspan(start, max(end, start + 0.02), color="#E69F00", alpha=0.55, linewidth=0)
    width = max(1e-3, float(times_s.max(initial=1.0)) / 2000)
    cells = (times_s / width).astype(np.int64)
    slowest = np.zeros(int(cells.max(initial=0)) + 1)
    np.maximum.at(slowest, cells, latencies_s)
    seen = slowest > 0
    axes.plot(np.flatnonzero(seen) * width, slowest[seen] * 1e3, color=color, linewidth=0.9)
    axes.set_title(label, loc="left", fontsize=9)
    axes.set_ylabel("slowest chunk, ms")
    axes.set_xlabel("seconds from the start")


def lines(axes: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> None:
    """One line with points for each series, on two logarithmic axes."""
    for color, (label, (xs, ys)) in zip(COLORS, series.items(), strict=False):
        axes.plot(xs, ys, "o-", color=color, markersize=4.5, linewidth=1.6, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=9)
