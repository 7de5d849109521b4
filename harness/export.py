"""Figures of runs for other programs: ``python -m harness.export results --csv figures.csv``.

A row of the CSV is one metric of one run in one scope, with its interval: what spreadsheets and data frames
take as it is. The JSON files are what github-action-benchmark reads, one for each direction, since a file of
its has one (``tool: customSmallerIsBetter`` and ``customBiggerIsBetter``).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.arguments import result_file
from harness.command import command, guarded
from harness.errors import ExitCode, UsageError
from harness.files import write_text
from harness.history import find_runs, quotable
from harness.measure.figure import Figures
from harness.measure.metrics import ALL, WEIGHTED, Kind, Metric, buckets_of, metric
from harness.measure.stats import Estimate
from harness.record import StoredRun
from harness.side_by_side import DEFAULT_METRICS

_EXAMPLES = """examples:
  python -m harness.export results --csv figures.csv
  python -m harness.export results/RUN --smaller-is-better smaller.json --bigger-is-better bigger.json
  python -m harness.export results --metric latency.p95 --metric span.encoder.p50 --csv figures.csv

exit codes: 0 written   2 wrong usage, or no run that may be quoted
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one run. ``unit`` is s, bytes, share or ratio; ``low`` and ``high`` its interval."""

    run_id: str
    created_utc: str
    variant: str
    label: str
    mode: str
    commit: str | None
    dirty: bool | None
    model: str
    dataset: str
    cpu: str
    gpu: str
    metric: str
    scope: str
    unit: str
    bigger_is_better: bool
    value: float
    low: float
    high: float
    n: int
    processes: int


def rows_of(stored: StoredRun, metrics: Sequence[Metric]) -> Iterator[Row]:
    """Every figure that the run has, in every scope; samples that are too small have none."""
    run, origin, figures = stored.run, stored.run.provenance, Figures(stored)
    for each in metrics:
        for scope in _scopes(stored, each):
            figure = figures.of(each, scope)
            if isinstance(figure, Estimate):
                yield Row(
                    run_id=run.run_id,
                    created_utc=run.created_utc,
                    variant=run.variant,
                    label=run.label,
                    mode=str(run.mode),
                    commit=origin.git.commit,
                    dirty=origin.git.dirty,
                    model=origin.model.name,
                    dataset=origin.dataset.name,
                    cpu=origin.cpu,
                    gpu=", ".join(gpu.name for gpu in origin.gpus),
                    metric=each.name,
                    scope=scope,
                    unit=unit_of(each),
                    bigger_is_better=each.larger_is_better,
                    **asdict(figure),
                )


def unit_of(each: Metric) -> str:
    if each.kind is Kind.MEMORY:
        return "bytes"
    if each.kind in (Kind.WER, Kind.FAILURES):
        return "share"
    return "s" if each.column.endswith("_s") else "ratio"


def csv_text(rows: Iterable[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def action_entries(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """As github-action-benchmark reads them: names that stay from commit to commit, ``range`` after ±. Of
    several runs of one command the newest: a file of its is about one commit."""
    newest = {_action_name(row): row for row in sorted(rows, key=lambda row: row.created_utc)}
    return [
        {
            "name": name,
            "unit": row.unit,
            "value": row.value,
            "range": f"{max(row.high - row.value, row.value - row.low):.3g}",
            "extra": f"95 % interval {row.low:.6g} to {row.high:.6g}, n {row.n}, run {row.run_id}",
        }
        for name, row in newest.items()
    ]


def _action_name(row: Row) -> str:
    parts = (row.variant, row.label, row.model, row.dataset, row.metric, row.scope)
    return " · ".join(part for part in parts if part)


def _scopes(stored: StoredRun, each: Metric) -> list[str]:
    return [ALL, WEIGHTED, *buckets_of(stored.measured)] if each.kind is Kind.PERCENTILE else [ALL]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded(lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    metrics = [metric(name) for name in options.metric or DEFAULT_METRICS]
    rows = list(_all_rows(options.runs, metrics))
    if not rows:
        raise UsageError("none of these runs has figures that may be told; the lines above say why")
    if options.csv:
        write_text(options.csv, csv_text(rows))
    for file, bigger in ((options.smaller_is_better, False), (options.bigger_is_better, True)):
        if file:
            entries = action_entries(row for row in rows if row.bigger_is_better is bigger)
            write_text(file, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    runs = len({row.run_id for row in rows})
    print(f"exported {len(rows)} figures of {runs} runs")
    return int(ExitCode.DONE)


def _all_rows(paths: Sequence[Path], metrics: Sequence[Metric]) -> Iterator[Row]:
    for found in quotable(find_runs(paths)):
        if isinstance(found, str):
            print(f"left out: {found}", file=sys.stderr)
        else:
            yield from rows_of(found, metrics)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.export",
        description="Write figures of runs as CSV, or as JSON for github-action-benchmark.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folder of a run, or of many")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="this metric; may be given again (default: the usual)",
    )
    parser.add_argument("--csv", type=result_file, metavar="FILE", help="one row a figure")
    parser.add_argument(
        "--smaller-is-better", type=result_file, metavar="FILE", help="JSON of times, errors and memory"
    )
    parser.add_argument("--bigger-is-better", type=result_file, metavar="FILE", help="JSON of RTFx")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
