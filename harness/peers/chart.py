"""The standings as bars, an engine a row: latency, throughput, memory, start-up, word error rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.measure.stats import Estimate, Measured
from harness.peers.standing import Standing
from harness.report.style import INK, QUIET, colored, figure_of, head, png, seconds_label, style

_ROW_INCHES = 0.34
_P95, _HEIGHT = 0.36, 0.62


@dataclass(frozen=True)
class Panel:
    """One figure of every engine, in ``unit``. ``speed`` is drawn only where it may be told."""

    title: str
    subtitle: str
    metrics: tuple[str, ...]
    label: Callable[[float, object], str]
    row: int
    columns: slice
    unit: float = 1.0
    speed: bool = False


def _gibibytes(value: float, _: object) -> str:
    return f"{value:g} GiB"


def _share(value: float, _: object) -> str:
    return f"{value:.3g} %"


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


_LATENCY = ("latency.p50", "latency.p95")
_START_UP = ("evidence.startup.total_s",)
_PANELS = (
    Panel(
        "Latency",
        "p50 of a complete request; paler: p95",
        _LATENCY,
        seconds_label,
        0,
        slice(0, 4),
        speed=True,
    ),
    Panel("RTFx", "audio over wall time", ("rtfx",), _plain, 0, slice(4, 6), speed=True),
    Panel("Memory", "peak of a process", ("memory.rss",), _gibibytes, 1, slice(0, 2), unit=2**30),
    Panel("Start-up", "import, build, warm up", _START_UP, seconds_label, 1, slice(2, 4)),
    Panel("Word errors", "of the words spoken", ("wer",), _share, 1, slice(4, 6), unit=0.01),
)


def chart(found: Sequence[Standing]) -> bytes | None:
    """PNG with 95 % intervals (memory and start-up: ranges); None where nothing was measured."""
    if not any(each.stored for each in found):
        return None
    figure = figure_of(2 * (1.15 + _ROW_INCHES * len(found)))
    grid = GridSpec(2, 6, figure=figure)
    for panel in _PANELS:
        axes = figure.add_subplot(grid[panel.row, panel.columns])
        style(axes)
        _draw(axes, panel, found, named=panel.columns.start == 0)
    return png(figure)


def _draw(axes: Axes, panel: Panel, found: Sequence[Standing], named: bool) -> None:
    places = range(len(found))[::-1]
    for place, (each, color) in zip(places, colored(found), strict=True):
        if each.stored is None:
            _say(axes, place, "cannot run here")
        elif panel.speed and each.reason:
            _say(axes, place, "withheld")
        else:
            for index, name in enumerate(panel.metrics):
                _bar(axes, place, each.figures[name], panel.unit, color, paler=index > 0)
    axes.set_yticks(list(places), [each.engine.title for each in found] if named else [""] * len(found))
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(panel.columns.stop - panel.columns.start + 1))
    axes.xaxis.set_major_formatter(FuncFormatter(panel.label))
    axes.grid(axis="y", visible=False)
    head(axes, panel.title, panel.subtitle)


def _say(axes: Axes, place: int, why: str) -> None:
    axes.annotate(
        why, (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=QUIET
    )


def _bar(axes: Axes, place: int, figure: Measured | None, unit: float, color: str, paler: bool) -> None:
    """p95 lies behind p50."""
    if not isinstance(figure, Estimate):
        return
    value, low, high = (each / unit for each in (figure.value, figure.low, figure.high))
    alpha, order = (_P95, 1) if paler else (1.0, 2)
    axes.barh(place, value, _HEIGHT, color=color, alpha=alpha, zorder=order)
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar(value, place, xerr=error, color=INK, linewidth=1.0, capsize=2.5, zorder=3)
