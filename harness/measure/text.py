"""Figures as a person reads them: units, three digits, intervals; and plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.measure.stats import Estimate, Measured, TooSmall

NOTHING = "–"
_NAMED = 5
"""Recordings that a message names before it breaks off."""


def seconds(value: float | None) -> str:
    """Three significant digits in the unit that suits: µs, ms or s."""
    if value is None:
        return NOTHING
    if abs(value) < 1e-3:
        return f"{digits(value * 1e6)} µs"
    return f"{digits(value * 1e3)} ms" if abs(value) < 1 else f"{digits(value)} s"


def gigabytes(value: float | None) -> str:
    return NOTHING if value is None else f"{digits(value / 2**30)} GiB"


def digits(value: float) -> str:
    """Three significant digits, thousands separated, no exponent."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    decimals = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    if magnitude < 0.1:
        return f"{value:.3g}"
    return f"{value:,.{decimals}f}"


def duration(figure: Measured | None) -> str:
    """A duration with its interval, in one unit: ``12.3 [11.9, 12.8] ms``."""
    match figure:
        case None:
            return NOTHING
        case TooSmall():
            return too_small(figure)
        case Estimate():
            factor, unit = _unit(figure.value)
            low, high = digits(figure.low * factor), digits(figure.high * factor)
            return f"{digits(figure.value * factor)} [{low}, {high}] {unit}"


def number(figure: Measured | None, factor: float = 1.0, suffix: str = "") -> str:
    """A plain figure with its interval."""
    match figure:
        case None:
            return NOTHING
        case TooSmall():
            return too_small(figure)
        case Estimate():
            low, high = digits(figure.low * factor), digits(figure.high * factor)
            return f"{digits(figure.value * factor)} [{low}, {high}]{suffix}"


def too_small(figure: TooSmall) -> str:
    return f"n too small ({figure.n} < {figure.needed})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first left-aligned, the others right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [_padded(line, widths) for line in lines]
    return "\n".join([padded[0], "-" * len(padded[0]), *padded[1:]])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Its lines."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])


def _unit(value: float) -> tuple[float, str]:
    if abs(value) < 1e-3:
        return 1e6, "µs"
    return (1e3, "ms") if abs(value) < 1 else (1.0, "s")


def names_of(recordings: Sequence[str]) -> str:
    """The first of them, by name."""
    return ", ".join(recordings[:_NAMED]) + (" …" if len(recordings) > _NAMED else "")


def first_errors(failed: pd.DataFrame) -> str:
    """Each recording of the rows ``failed`` once, with the first of its errors; the first few of them."""
    first = failed.drop_duplicates("request_id").head(_NAMED)
    told = [f"{name} ({error})" for name, error in zip(first["request_id"], first["error"], strict=True)]
    return "; ".join(told) + (" …" if failed["request_id"].nunique() > _NAMED else "")
