"""The table that a run ends with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from harness.measure.stats import Measured, TooSmall
from harness.measure.summary import Scope
from harness.measure.text import NOTHING, duration, number, seconds, table
from harness.record import StoredRun
from harness.report.content import (
    EDITS,
    HEADER,
    WITHHELD,
    Entry,
    conditions,
    entries,
    headline,
    offline_rows,
    transcripts,
    unaccounted_text,
    warnings,
)

_BAR = 24
_WORDS_WIDTH = 160


def text_summary(stored: StoredRun) -> str:
    """A run in the terminal: percentiles per bucket, where the time went, what it heard, warnings."""
    (entry,) = entries([stored])
    return "\n".join(_lines(entry))


def _lines(entry: Entry) -> Iterator[str]:
    run = entry.stored.run
    yield f"{run.variant}  {run.verdict.status}  {run.run_id}"
    yield conditions(entry.stored)
    if entry.withheld:
        yield f"\nspeed {WITHHELD}: {run.parity.message if run.parity else ''}"
    elif not entry.has_latency:
        yield ""
        yield from (f"{name:<14} {figure}" for name, figure in offline_rows(entry))
    elif entry.summary.overall is not None:
        yield f"\n{_latencies(entry)}"
        if entry.has_ledger:
            yield f"\n{_where(entry.summary.overall)}"
    yield f"\n{_figures(entry)}"
    spoken = transcripts(entry)
    if spoken:
        yield ""
    for line in spoken:
        yield f"said   {_shown(line.reference or NOTHING)}"
        yield f"heard  {_shown(line.text)}"
    for warning in warnings(entry):
        yield f"\nwarning: {warning}"


def _shown(words: str) -> str:
    """The first words: a meeting's would fill the screen many times over."""
    return textwrap.shorten(words, _WORDS_WIDTH, placeholder=" …")


def _latencies(entry: Entry) -> str:
    rows = [_scope_cells(scope) for scope in entry.summary.scopes]
    return table(("latency", "requests", "p50", "p90", "p95", "p99", "RTF p50"), rows)


def _scope_cells(scope: Scope) -> tuple[str, ...]:
    percentiles = [_short(figure, duration) for figure in scope.latency.values()]
    return (scope.name, str(scope.requests), *percentiles, _short(scope.rtf["p50"], number))


def _short(figure: Measured, text: Callable[[Measured], str]) -> str:
    """A warning below the table says how many samples a percentile needs."""
    return "n too small" if isinstance(figure, TooSmall) else text(figure)


def _where(scope: Scope) -> str:
    """Mean seconds per span, with bars; what no span explains comes last."""
    parts = {name: value for name, value in scope.spans.items() if value > 0}
    parts["unaccounted"] = scope.unaccounted_s
    total = sum(parts.values()) or 1.0
    lines = [
        f"{name:<12} {seconds(value):>9}  {value / total:>6.1%}  {'█' * round(_BAR * value / total)}".rstrip()
        for name, value in parts.items()
    ]
    return "\n".join(["where the time goes (mean per request)", *lines])


def _figures(entry: Entry) -> str:
    cells = dict(zip(HEADER, headline(entry), strict=True))
    if cells[EDITS] != NOTHING:
        cells["WER"] += f"   insertions / deletions / substitutions / words: {cells[EDITS]}"
    names = ("RTFx", "WER", "memory")
    lines = [(name, cells[name]) for name in names if cells[name] not in (NOTHING, WITHHELD)]
    if entry.has_ledger:
        lines.append(("unaccounted", unaccounted_text(entry)))
    if entry.stored.run.parity is not None:
        lines.append(("output", f"{entry.stored.run.parity.status}: {entry.stored.run.parity.message}"))
    return "\n".join(f"{name:<12} {value}" for name, value in lines)
