"""When did it change? ``python -m harness.history results/``: figures over time, and the steps in them.

Runs of the same command on the same machine and audio are a series, whatever commit, library or driver they
ran with: those are what a history is about. ``harness.measure.steps`` finds the steps; the chance of seeing
one or more where nothing changed is 1 %, over all series and metrics that are looked at together.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.command import command, guarded
from harness.errors import ExitCode, HarnessError, UsageError
from harness.measure.figure import Figures
from harness.measure.metrics import ALL, Kind, Metric, metric
from harness.measure.stats import CONFIDENCE, Estimate, nearest_rank
from harness.measure.steps import FALSE_ALARM, Step, find_steps
from harness.measure.text import NOTHING, duration, gigabytes, number, table
from harness.record import Run, StoredRun, read_run
from harness.record.store import RUN_FILE
from harness.same_ground import differences, in_words
from harness.side_by_side import require_quotable

METRICS = ("latency.p50", "latency.p95", "rtfx", "wer", "memory.rss")
_EXAMPLES = """examples:
  python -m harness.history results
  python -m harness.history results --metric latency.p95 --metric span.encoder.p50 --scope 02-05s
  python -m harness.history results --by commit --out reports/history

exit codes: 0 told   2 wrong usage, or no run that may be quoted
"""


@dataclass(frozen=True)
class Point:
    """A run, or those of one commit, and its figures; a metric that it does not have is not there."""

    run: Run
    figures: Mapping[Metric, Estimate]

    @property
    def commit(self) -> str:
        git = self.run.provenance.git
        return (git.commit or git.source_hash)[:7] + ("*" if git.dirty else "")

    @property
    def day(self) -> str:
        return self.run.created_utc[:10]


@dataclass(frozen=True)
class Course:
    """One metric of a series: the points that have it, and where it changed."""

    metric: Metric
    points: tuple[Point, ...]
    steps: tuple[Step, ...]

    @property
    def figures(self) -> list[Estimate]:
        return [point.figures[self.metric] for point in self.points]

    @property
    def current(self) -> tuple[Point, ...]:
        """Those since the last step."""
        return self.points[self.steps[-1].place if self.steps else 0 :]


@dataclass(frozen=True)
class Series:
    """Runs of one command, oldest first."""

    name: str
    points: tuple[Point, ...]
    courses: tuple[Course, ...]


def find_runs(paths: Iterable[Path]) -> Iterator[Path]:
    """Folders of runs: each path itself, or those below it. Raises ``UsageError`` for one that has none."""
    for path in paths:
        found = [path] if (path / RUN_FILE).is_file() else [f.parent for f in sorted(path.rglob(RUN_FILE))]
        if not found:
            raise UsageError(f"{path}: no run is there; pass a folder of runs, such as results")
        yield from found


def quotable(folders: Iterable[Path]) -> Iterator[StoredRun | str]:
    """Each run, or why its figures may not be told."""
    for folder in folders:
        try:
            stored = read_run(folder)
            require_quotable(stored.run)
        except HarnessError as error:
            yield str(error)
        else:
            yield stored


def point_of(stored: StoredRun, metrics: Sequence[Metric], scope: str = ALL) -> Point:
    figures = Figures(stored)
    found = {each: figures.of(each, scope) for each in metrics}
    return Point(stored.run, {m: figure for m, figure in found.items() if isinstance(figure, Estimate)})


def make_series(points: Iterable[Point], metrics: Sequence[Metric], by_commit: bool = False) -> list[Series]:
    """Series by name, with the steps of each metric."""
    ordered = sorted(points, key=lambda point: (identity(point.run), point.run.created_utc, point.run.run_id))
    groups = [tuple(group) for _, group in groupby(ordered, key=lambda point: identity(point.run))]
    if by_commit:
        groups = [tuple(_joined(group)) for group in groups]
    level = FALSE_ALARM / max(1, len(groups) * len(metrics))
    names = _names([group[-1].run for group in groups])
    return [
        Series(name, group, tuple(_courses(group, metrics, level)))
        for name, group in zip(names, groups, strict=True)
    ]


def identity(run: Run) -> tuple[str, ...]:
    """What two runs share that differ only in when they were measured, of which code, with which versions."""
    origin = run.provenance
    model, data = origin.model, origin.dataset
    return (
        *(run.variant, run.label, str(run.mode), model.name, model.weights_hash, data.name),
        *(data.content_hash, origin.cpu, str(origin.cpu_count), *(gpu.name for gpu in origin.gpus)),
        *_asked_for(run),
    )


def _asked_for(run: Run) -> list[str]:
    """Overrides, but for those that move no figure."""
    return sorted(override for override in run.overrides if not override.lstrip("+").startswith("runner."))


def in_logarithms(metric: Metric) -> bool:
    """Whether two figures are compared by their ratio; rates of errors and failures by their difference."""
    return metric.kind not in (Kind.WER, Kind.FAILURES)


def _names(runs: Sequence[Run]) -> list[str]:
    """Variant, label and audio set; where those repeat, also what was asked for and of which machine."""
    short = [
        " · ".join(part for part in (run.variant, run.label, run.provenance.dataset.name) if part)
        for run in runs
    ]
    return [
        " · ".join([name, *_asked_for(run), run.provenance.cpu]) if short.count(name) > 1 else name
        for name, run in zip(short, runs, strict=True)
    ]


def _courses(points: Sequence[Point], metrics: Sequence[Metric], level: float) -> Iterator[Course]:
    for each in metrics:
        having = tuple(point for point in points if each in point.figures)
        values = [point.figures[each].value for point in having]
        if not values:
            continue
        logarithms = in_logarithms(each) and min(values) > 0
        steps = find_steps([math.log(value) for value in values] if logarithms else values, level)
        yield Course(each, having, tuple(steps))


def _joined(points: Iterable[Point]) -> Iterator[Point]:
    """Runs of one commit that follow each other as one: the median figure, within all their intervals."""
    for _, group in groupby(points, key=lambda point: point.run.provenance.git):
        same = list(group)
        metrics = dict.fromkeys(metric for point in same for metric in point.figures)
        yield Point(
            same[-1].run, {m: _median([p.figures[m] for p in same if m in p.figures]) for m in metrics}
        )


def _median(figures: Sequence[Estimate]) -> Estimate:
    value = nearest_rank([figure.value for figure in figures], 0.5)
    low, high = min(figure.low for figure in figures), max(figure.high for figure in figures)
    n, processes = sum(figure.n for figure in figures), sum(figure.processes for figure in figures)
    return Estimate(value, low, high, n, processes)


# ---------------------------------------------------------------- in words


def value_text(metric: Metric, figure: Estimate | None) -> str:
    """A figure with its interval, in the metric's unit."""
    if figure is None:
        return NOTHING
    if metric.kind is Kind.MEMORY:
        return gigabytes(figure.value)
    if not in_logarithms(metric):
        return number(figure, 100.0, " %")
    return duration(figure) if metric.column.endswith("_s") else number(figure)


def step_text(course: Course, step: Step) -> str:
    """By how much, where, how sure, and what else changed there."""
    before, after = course.points[step.place - 1].run, course.points[step.place].run
    commits = course.points[step.place - 1].commit, course.points[step.place].commit
    told = (
        f"{course.metric.name} {change_text(course.metric, step)} between {before.run_id} ({commits[0]}) and "
        f"{after.run_id} ({commits[1]}), p {step.p:.1g}"
    )
    others = differences(before, after)
    return told + (f"; also changed: {in_words(others)}" if others else "")


def change_text(metric: Metric, step: Step) -> str:
    values = (step.change.value, *step.change.interval(CONFIDENCE))
    if in_logarithms(metric):
        value, low, high = (math.expm1(each) * 100 for each in values)
        return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"
    value, low, high = (each * 100 for each in values)
    return f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"


def text_of(series: Series) -> str:
    """A series as the command prints it: a line for each point, then the steps."""
    metrics = [course.metric for course in series.courses]
    rows = [
        (point.run.created_utc[:16], point.commit, *(value_text(m, point.figures.get(m)) for m in metrics))
        for point in series.points
    ]
    header = (f"{series.name}", "commit", *(each.name for each in metrics))
    steps = [f"step  {step_text(course, step)}" for course in series.courses for step in course.steps]
    return "\n".join([table(header, rows), *(steps or ["no step"])])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded(lambda: _tell(options))


def _tell(options: argparse.Namespace) -> int:
    from harness.report.history import write_history  # draws: a table needs no matplotlib

    metrics = [metric(name) for name in options.metric or METRICS]
    points: list[Point] = []
    for found in quotable(find_runs(options.runs)):
        if isinstance(found, str):
            print(f"left out: {found}", file=sys.stderr)
        else:
            points.append(point_of(found, metrics, options.scope))
    if not points:
        raise UsageError("none of these runs may be quoted; the lines above say why")
    series = make_series(points, metrics, by_commit=options.by == "commit")
    print("\n\n".join(map(text_of, series)))
    if options.out is not None:
        print(f"\npage  {write_history(series, options.out)}")
    return int(ExitCode.DONE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.history",
        description="Figures of runs over time or commits, and where they changed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folder of a run, or of many")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help=f"this metric; may be given again (default: {', '.join(METRICS)})",
    )
    parser.add_argument(
        "--scope", default=ALL, help="all, weighted (by the set's mix) or a length bucket (default: all)"
    )
    parser.add_argument(
        "--by",
        default="time",
        choices=("time", "commit"),
        help="commit: runs of one commit that follow each other are one point (default: time)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write a page into this folder")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
