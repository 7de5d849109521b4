"""The standings as one table (Markdown, CSV) and one chart."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.files import explained, write_atomically, write_text
from harness.measure.metrics import metric
from harness.measure.stats import Estimate, Measured
from harness.measure.text import NOTHING, duration, gigabytes, markdown_table, number, table
from harness.peers.chart import chart
from harness.peers.lineup import Lineup
from harness.peers.standing import START_UP, Standing, disturbed
from harness.record import Run

NAME = "peers"
HEADER = (
    "engine",
    "p50",
    "p95",
    "p50 / ours",
    "RTFx",
    "memory",
    "start-up",
    "WER",
    "WER above ours",
    "versions",
)
WITHHELD = "withheld"


def write(lineup: Lineup, found: Sequence[Standing], folder: Path) -> Path:
    """``peers.md``, ``peers.csv`` and, where anything was measured, ``peers.png``; the Markdown's path."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{NAME}.csv", as_csv(found))
    drawn = chart(found)
    if drawn is not None:
        write_atomically(folder / f"{NAME}.png", lambda file: file.write(drawn))
    page = folder / f"{NAME}.md"
    write_text(page, markdown(lineup, found, with_chart=drawn is not None))
    return page


def terminal(found: Sequence[Standing]) -> str:
    reasons = [f"{each.engine.title}: {each.reason}" for each in found if each.reason]
    return "\n".join([table(HEADER[:-1], [_cells(each)[:-1] for each in found]), *reasons])


def markdown(lineup: Lineup, found: Sequence[Standing], with_chart: bool) -> str:
    lines = [f"# {lineup.title}: ours and peers, side by side", ""]
    if runs := [each.stored.run for each in found if each.stored]:
        lines += [_where(runs[0]), ""]
    lines += markdown_table(HEADER, [_cells(each) for each in found])
    if reasons := [f"- {each.engine.title}: {each.reason}" for each in found if each.reason]:
        lines += ["", *reasons]
    lines += ["", *(f"- {note}" for note in _notes(found))]
    return "\n".join([*lines, "", f"![The same figures, drawn]({NAME}.png)"] if with_chart else lines) + "\n"


def _where(run: Run) -> str:
    origin, threads = run.provenance, run.config["runner"]["threads"]
    requests = run.config["workload"]["requests"]
    return (
        f"{origin.cpu}, {origin.cpu_count} cores, {origin.os}, Python {origin.python}. Rounds of one process "
        f"each: {len(run.processes)}; requests of a process: {requests}, of the set {origin.dataset.name}; "
        f"threads: {threads or 'all'}; model.device={run.config['model']['device']}."
    )


def _notes(found: Sequence[Standing]) -> Iterator[str]:
    yield (
        "Latency is of a complete request, from the bytes of a container to text, behind the same front end, "
        "with 95 % intervals. Its ratio to ours is that of processes within rounds."
    )
    yield (
        "Memory is the largest peak of a process. Start-up is the median of the processes, with their range: "
        "seconds of a core to import the engine, then to build it and to visit its shapes once. Weights that "
        "had to be exported were so in the first process."
    )
    yield from disturbed(found)


def _cells(each: Standing) -> tuple[str, ...]:
    figures, versions = each.figures, ", ".join(f"{name} {found}" for name, found in each.versions.items())
    if each.stored is None:
        return (each.engine.title, *[NOTHING] * (len(HEADER) - 1))
    speed = (
        duration(figures["latency.p50"]),
        duration(figures["latency.p95"]),
        number(each.ratio, suffix=" ×"),
        number(figures["rtfx"]),
    )
    return (
        each.engine.title,
        *([WITHHELD] * len(speed) if each.reason else speed),
        gigabytes(_value(figures["memory.rss"])),
        duration(figures["evidence.startup.total_s"]),
        number(figures["wer"], 100, " %"),
        _above(each),
        versions,
    )


def _above(each: Standing) -> str:
    """Points of word error rate; where both say the same there is no interval."""
    if each.parity is None:
        return NOTHING
    if each.parity.differing == 0:
        return "0, the same words"
    parity = each.parity
    if (
        parity.wer_difference is None
        or parity.wer_difference_low is None
        or parity.wer_difference_high is None
    ):
        return NOTHING
    low, high = parity.wer_difference_low, parity.wer_difference_high
    return f"{parity.wer_difference:+.2%} [{low:+.2%}, {high:+.2%}]"


def _value(figure: Measured | None) -> float | None:
    return figure.value if isinstance(figure, Estimate) else None


# ---------------------------------------------------------------- CSV

_COLUMNS = MappingProxyType(
    {
        "latency.p50": "latency_p50_s",
        "latency.p95": "latency_p95_s",
        "rtfx": "rtfx",
        "memory.rss": "memory_bytes",
        "wer": "wer",
        **{f"evidence.startup.{step}": f"start_up_{step}" for step in START_UP},
    }
)


def as_csv(found: Sequence[Standing]) -> str:
    """A row for each engine: every figure in seconds, bytes or shares, its interval in columns beside it."""
    rows = [_row(each) for each in found]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(each: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {
        "engine": each.engine.title,
        "model": each.engine.model,
        "reason": each.reason or "",
    }
    for name, column in _COLUMNS.items():
        hidden = each.reason is not None and metric(name).is_speed
        row |= _interval(column, None if hidden else each.figures.get(name))
    row |= _interval("latency_p50_to_ours", each.ratio)
    return row | {
        "wer_above_ours": "" if each.parity is None else each.parity.wer_difference,
        "requests": 0 if each.stored is None else len(each.stored.measured),
        "processes": 0 if each.stored is None else len(each.stored.run.processes),
        "versions": " ".join(f"{name}=={version}" for name, version in each.versions.items()),
        "run": "" if each.stored is None else each.stored.run.run_id,
    }


def _interval(column: str, figure: Measured | None) -> dict[str, float | str]:
    names = (column, f"{column}_low", f"{column}_high")
    if not isinstance(figure, Estimate):
        return dict.fromkeys(names, "")
    return dict(zip(names, (figure.value, figure.low, figure.high), strict=True))
