"""How every chart of this project looks. Drawn without pyplot: no global figure, no display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from harness.errors import UsageError

# Okabe & Ito (2008): eight colours that most colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#444444")
INK, QUIET, GRID = "#1b1f24", "#5b6570", "#e3e7eb"
Drawn = TypeVar("Drawn")
_DPI = 160
_WIDTH = 9.0


def figure_of(height: float) -> Figure:
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def one_panel(height: float) -> tuple[Figure, Axes]:
    figure = figure_of(height)
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(which="both", colors=QUIET, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def head(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(subtitle, loc="left", fontsize=9, color=QUIET, pad=8)
    axes.annotate(
        title, (0, 1), xycoords="axes fraction", xytext=(0, 22), textcoords="offset points",
        fontsize=12.5, fontweight="bold", color=INK, annotation_clip=False,
    )  # fmt: skip


def legend_below(figure: Figure, columns: int, **handles: Sequence[Patch]) -> None:
    """Of what was drawn, or of ``handles``."""
    figure.legend(
        **handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5,
        handlelength=1.1, handleheight=1.0, columnspacing=1.4,
    )  # fmt: skip


def sparse_log(axis: object) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


def seconds_label(value: float, _: object = None) -> str:
    """A tick: no decimals that say nothing."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value * 1e6:g} µs"
    return f"{value * 1e3:g} ms" if abs(value) < 1 else f"{value:g} s"


def colored(drawn: Sequence[Drawn]) -> list[tuple[Drawn, str]]:
    return [(each, COLORS[i % len(COLORS)]) for i, each in enumerate(drawn)]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No date and no version in the file: the same run gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def save(figure: Figure, path: Path, named: str) -> None:
    """Write a PNG. Raises ``UsageError`` that names the path as the user did (``named``)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(figure))
    except OSError as error:
        raise UsageError(f"{named}: cannot be written ({error.strerror}); choose another path") from error
