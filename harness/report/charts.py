"""The charts of a report, as PNG bytes. Drawn without pyplot: no global figure, no display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from harness.measure.stats import Estimate, Measured, nearest_rank
from harness.measure.text import digits, seconds
from harness.report.benches import Panel
from harness.report.content import Entry
from harness.report.load_curve import load_curves, throughput_latency
from harness.report.style import (
    GRID,
    INK,
    QUIET,
    colored,
    figure_of,
    head,
    legend_below,
    one_panel,
    png,
    seconds_label,
    sparse_log,
    style,
)
from harness.spans import SPAN_NAMES

# Waiting and moving in greys and browns, the front end in blues and greens, the model in warm colours.
SPAN_COLORS = {
    "queue": "#8C8C8C",
    "decode": "#1F4E79",
    "resample": "#2E75B6",
    "denoise": "#5BA3D9",
    "vad": "#17807E",
    "segment": "#63B7AF",
    "features": "#A8D5BA",
    "ipc": "#A67C52",
    "batch": "#5F5A55",
    "encoder": "#D1495B",
    "decoder": "#EDAE49",
    "text": "#F3D08B",
    "reply": "#C9B79C",
    "connect": "#E3D9C6",
    "upload": "#7F6A4F",
    "wait": "#4A4A4A",
    "download": "#B08D57",
    "engine": "#9C4A6B",
}
UNACCOUNTED = "unaccounted"
PART_COLORS = {**SPAN_COLORS, UNACCOUNTED: GRID}


def charts(entries: Sequence[Entry]) -> dict[str, bytes]:
    """File name to PNG, for the runs whose speed may be shown; empty when there is none."""
    drawable = [entry for entry in entries if entry.drawable]
    if not drawable:
        return {}
    draw: Mapping[str, Callable[[Sequence[Entry]], Figure]] = {
        "latency.png": latency_ecdf,
        "percentiles.png": percentile_bars,
        "spans.png": span_stacks,
        "rtf.png": rtf_scatter,
    }
    ledgers = [entry for entry in drawable if entry.has_ledger]
    known = [entry for entry in drawable if entry.has_latency and (entry.stored.measured["rtf"] > 0).any()]
    timed = [entry for entry in drawable if entry.has_latency]
    shown = dict.fromkeys(draw, timed) | {"spans.png": ledgers, "rtf.png": known}
    drawn = {name: png(function(shown[name])) for name, function in draw.items() if shown[name]}
    curves = load_curves(entries)
    return drawn | ({"load.png": png(throughput_latency(curves))} if curves else {})


def latency_ecdf(entries: Sequence[Entry]) -> Figure:
    """Share of requests answered within a time, one step line per run."""
    figure, axes = one_panel(4.2)
    for entry, color in colored(entries):
        values = np.sort(entry.stored.measured["latency_s"].to_numpy())
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, share, where="post", color=color, linewidth=1.8, label=entry.label)
        marks = [nearest_rank(values, q) for q in (0.50, 0.95)]
        axes.plot(marks, (0.50, 0.95), "o", color=color, markersize=4.5, markeredgecolor="white", zorder=4)
    for q, name in ((0.50, "p50"), (0.95, "p95")):
        axes.axhline(q, color=QUIET, linewidth=0.7, linestyle=(0, (4, 4)), zorder=1)
        axes.annotate(
            name, (1.0, q), xycoords=("axes fraction", "data"), xytext=(4, -3), textcoords="offset points",
            fontsize=8, color=QUIET,
        )  # fmt: skip
    _seconds_axis(axes, pd.concat([entry.stored.measured["latency_s"] for entry in entries]))
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    head(
        axes,
        "Latency of a request",
        "share of requests answered within this time, from their scheduled arrival",
    )
    _legend(figure, entries)
    return figure


def percentile_bars(entries: Sequence[Entry]) -> Figure:
    """p50 and p95 per length bucket with 95 % intervals, one bar per run."""
    buckets = sorted({scope.name for entry in entries for scope in entry.summary.buckets})
    figure = figure_of(2 * 2.5 + 0.6)
    _legend(figure, entries)
    for row, quantile in enumerate(("p50", "p95")):
        axes = figure.add_subplot(2, 1, row + 1)
        style(axes)
        for place, (entry, color) in enumerate(colored(entries)):
            latencies = {scope.name: scope.latency[quantile] for scope in entry.summary.scopes}
            _bars(axes, ["all", *buckets], latencies, place, len(entries), color)
        axes.set_xticks(range(len(buckets) + 1), ["all", *buckets])
        axes.axvline(0.5, color=QUIET, linewidth=0.7)
        axes.yaxis.set_major_formatter(FuncFormatter(seconds_label))
        axes.grid(axis="x", visible=False)
        head(axes, f"{quantile} of latency per length bucket", "nearest rank, 95 % interval")
        axes.set_xlim(-0.55, len(buckets) + 0.55)
    return figure


def _bars(
    axes: Axes, scopes: Sequence[str], figures: Mapping[str, Measured], place: int, runs: int, color: str
) -> None:
    width = min(0.8 / runs, 0.34)
    offset = (place - (runs - 1) / 2) * width
    for x, scope in enumerate(scopes):
        match figures.get(scope):
            case Estimate() as e:
                error = [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]
                axes.bar(x + offset, e.value, width * 0.92, color=color, zorder=2)
                axes.errorbar(
                    x + offset, e.value, yerr=error, color=INK, linewidth=1.1, capsize=2.5, zorder=3
                )
            case None:
                pass
            case _:
                axes.annotate(
                    "n too small", (x + offset, 0), xycoords=("data", "axes fraction"), xytext=(0, 4),
                    textcoords="offset points", rotation=90, ha="center", va="bottom", fontsize=7,
                    color=QUIET,
                )  # fmt: skip


def span_stacks(entries: Sequence[Entry]) -> Figure:
    """Mean seconds per span: one bar per run, or per bucket where there is one run."""
    bars = _stack_rows(entries)
    figure, axes = one_panel(1.7 + 0.42 * len(bars))
    names = [name for name in (*SPAN_NAMES, UNACCOUNTED) if any(parts.get(name, 0) > 0 for _, parts in bars)]
    left = np.zeros(len(bars))
    places = np.arange(len(bars))[::-1]
    for name in names:
        widths = np.array([parts.get(name, 0.0) for _, parts in bars])
        hatched = name == UNACCOUNTED
        axes.barh(
            places, widths, 0.62, left=left, label=name, color="white" if hatched else SPAN_COLORS[name],
            hatch="/////" if hatched else None, edgecolor=QUIET if hatched else "white", linewidth=0.6,
        )  # fmt: skip
        left += widths
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            seconds(float(total)), (total, place), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.set_yticks(places, [label for label, _ in bars])
    axes.set_xlim(0, left.max() * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(seconds_label))
    axes.grid(axis="y", visible=False)
    head(axes, "Where the time goes", "mean seconds of each span per request; hatched: in no span")
    legend_below(figure, min(len(names), 7))
    return figure


def _stack_rows(entries: Sequence[Entry]) -> list[tuple[str, dict[str, float]]]:
    if len(entries) > 1:
        scopes = [(entry.label, entry.summary.overall) for entry in entries]
    else:
        summary = entries[0].summary
        scopes = [(scope.name, scope) for scope in (summary.overall, *summary.buckets) if scope is not None]
    return [
        (label, {**scope.spans, UNACCOUNTED: scope.unaccounted_s})
        for label, scope in scopes
        if scope is not None
    ]


def rtf_scatter(entries: Sequence[Entry]) -> Figure:
    """Processing time over audio length of each request, against its length."""
    figure, axes = one_panel(4.2)
    shown = [entry.stored.measured for entry in entries]
    points = sum(len(rows) for rows in shown)
    for (entry, color), rows in zip(colored(entries), shown, strict=True):
        rows = rows[rows["rtf"] > 0]
        alpha = float(np.clip(600 / max(points, 1), 0.12, 0.7))
        axes.scatter(
            rows["audio_s"], rows["rtf"], s=14, color=color, alpha=alpha, linewidths=0, label=entry.label
        )
        by_bucket = rows.groupby("bucket")[["audio_s", "rtf"]]
        medians = by_bucket.agg(lambda values: nearest_rank(values, 0.5)).sort_values("audio_s")
        axes.plot(
            medians["audio_s"], medians["rtf"], "-o", color=color, linewidth=1.4, markersize=4, zorder=3
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        sparse_log(axis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: digits(value)))
    axes.set_xlabel("audio length", color=QUIET)
    axes.set_ylabel("RTF", color=QUIET)
    head(axes, "RTF against audio length", "processing time over audio length; line: median of each bucket")
    _legend(figure, entries)
    return figure


def bench_chart(panels: Sequence[Panel]) -> bytes:
    """PNG of parts measured alone: median seconds of a call over its size, with the middle 90 %."""
    figure = figure_of(4.4 * len(panels))
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colors = dict(colored(names))
    for row, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        style(axes)
        _draw_panel(axes, panel, colors)
    handles = [Patch(color=colors[name], label=name) for name in names]
    legend_below(figure, min(len(names), 6), handles=handles)
    return png(figure)


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str]) -> None:
    sizes = sorted({size for curve in panel.curves for size in curve.samples_s})
    for curve in panel.curves:
        # A size without samples breaks the line: nothing is drawn across what was withheld.
        samples = [np.sort(curve.samples_s.get(size, [np.nan])) for size in sizes]
        low, middle, high = ([nearest_rank(values, q) for values in samples] for q in (0.05, 0.50, 0.95))
        axes.fill_between(sizes, low, high, color=colors[curve.name], alpha=0.18, linewidth=0)
        axes.plot(sizes, middle, "-o", color=colors[curve.name], linewidth=1.6, markersize=4.5, zorder=3)
    note = "median of a call, band: middle 90 %"
    if panel.floor_s:
        at = sorted(panel.floor_s)
        axes.plot(at, [panel.floor_s[size] for size in at], "--", color=QUIET, linewidth=1.1)
        note += ", dashed: the floor of memory and arithmetic"
    for name, wrong in panel.withheld.items():
        note += f"; {name} withheld at {', '.join(f'{size:g} s' for size in wrong)}: wrong states"
    axes.set_xscale("log")
    axes.set_yscale("log")
    unit = " s" if panel.size == "audio length" else ""
    axes.set_xticks(sizes, [f"{size:g}{unit}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    sparse_log(axes.yaxis)
    lowest, highest = axes.get_ylim()
    if highest < 10 * lowest:
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.5, *range(2, 10))))
    axes.yaxis.set_major_formatter(FuncFormatter(seconds_label))
    axes.set_xlabel(panel.size, color=QUIET)
    head(axes, panel.title, f"{panel.subtitle}; {note}")


def _legend(figure: Figure, entries: Sequence[Entry]) -> None:
    """Below the chart, where it hides no data; one run needs none."""
    if len(entries) < 2:
        return
    handles = [Patch(color=color, label=entry.label) for entry, color in colored(entries)]
    longest = max(len(entry.label) for entry in entries)
    legend_below(figure, max(1, min(len(entries), 110 // (longest + 8))), handles=handles)


def _seconds_axis(axes: Axes, values: pd.Series) -> None:
    """Log scale where the values span more than a decade."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
        sparse_log(axes.xaxis)
    else:
        axes.set_xlim(0, high * 1.03)
    axes.xaxis.set_major_formatter(FuncFormatter(seconds_label))
