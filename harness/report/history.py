"""The page of a history: a chart of each metric with its steps, and every figure in a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.files import explained, write_text
from harness.history import Course, Series, change_text, in_logarithms, step_text, value_text
from harness.measure.metrics import Kind
from harness.measure.text import digits
from harness.report.page import document, figure_cell, image, row, table_of
from harness.report.style import COLORS, INK, QUIET, figure_of, head, png, seconds_label, style

PAGE = "history.html"
_TICKS = 12


def write_history(series: Sequence[Series], out: Path) -> Path:
    """Write the page into ``out``; returns its path. Raises as ``explained`` does where it cannot."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    sections = ["<h1>Speech-to-text serving: history</h1>", *map(_section, series)]
    write_text(out / PAGE, document("History", sections))
    return out / PAGE


def _section(series: Series) -> str:
    steps = [step_text(course, step) for course in series.courses for step in course.steps]
    told = "".join(f"<li>{escape(text)}</li>" for text in steps)
    answer = f"<ul>{told}</ul>" if steps else "<p>No step in any of these figures.</p>"
    metrics = [course.metric for course in series.courses]
    body = "".join(
        row(
            [
                f"{escape(point.run.created_utc[:16])}<small>{escape(point.run.run_id)}</small>",
                escape(point.commit),
                *(figure_cell(value_text(metric, point.figures.get(metric))) for metric in metrics),
            ]
        )
        for point in reversed(series.points)
    )
    figures = table_of(("measured", "commit", *(metric.name for metric in metrics)), body)
    return (
        f"<h2>{escape(series.name)}</h2>{answer}{image(f'History of {series.name}', history_chart(series))}"
        f'<div class="scroll">{figures}</div>'
    )


def history_chart(series: Series) -> bytes:
    """One panel a metric: each figure with its interval, the mean between steps, the steps."""
    figure = figure_of(0.6 + 2.2 * len(series.courses))
    panels = figure.subplots(len(series.courses), squeeze=False)[:, 0]
    for axes, course in zip(panels, series.courses, strict=True):
        _draw(axes, course)
    return png(figure)


def _draw(axes: Axes, course: Course) -> None:
    style(axes)
    values = np.array([figure.value for figure in course.figures])
    reach = np.array([[f.value - f.low for f in course.figures], [f.high - f.value for f in course.figures]])
    axes.errorbar(
        np.arange(len(values)), values, yerr=np.maximum(reach, 0.0), fmt="o", markersize=3.5, color=COLORS[0],
        ecolor=COLORS[5], elinewidth=1.2, zorder=3,
    )  # fmt: skip
    for start, end in pairwise([0, *(step.place for step in course.steps), len(values)]):
        level = _level(values[start:end], in_logarithms(course.metric))
        axes.hlines(level, start - 0.5, end - 0.5, color=INK, linewidth=1.1, zorder=2)
    for step in course.steps:
        axes.axvline(step.place - 0.5, color=COLORS[1], linewidth=1.2, linestyle="--", zorder=1)
        axes.annotate(
            change_text(course.metric, step), (step.place - 0.5, 1), xycoords=("data", "axes fraction"),
            xytext=(4, -3), textcoords="offset points", va="top", fontsize=7.5, color=COLORS[1],
        )  # fmt: skip
    every = max(1, -(-len(values) // _TICKS))
    shown = range(0, len(values), every)
    axes.set_xticks(shown, [f"{course.points[i].day[5:]}\n{course.points[i].commit}" for i in shown])
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(course, value)))
    head(axes, course.metric.name, "each run with its 95 % interval; lines: the mean between steps")
    axes.tick_params(axis="x", labelsize=7, colors=QUIET)


def _level(values: np.ndarray, logarithms: bool) -> float:
    """The mean that steps are steps of."""
    return float(np.exp(np.log(values).mean()) if logarithms and values.min() > 0 else values.mean())


def _tick(course: Course, value: float) -> str:
    if course.metric.kind is Kind.MEMORY:
        return f"{digits(value / 2**30)} GiB"
    if not in_logarithms(course.metric):
        return f"{value * 100:g} %"
    return seconds_label(value) if course.metric.column.endswith("_s") else f"{value:g}"
