"""How much faster is B than A? ``python -m harness.compare A B``.

Prints the ratio B/A of every metric and bucket with its 95 % interval, for runs that stand on the
same ground and give the same answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.command import command, guarded
from harness.comparison import Comparison, compare_runs
from harness.errors import ExitCode
from harness.measure.change import Change
from harness.measure.metrics import Kind, metric
from harness.measure.stats import Estimate, TooSmall
from harness.measure.text import NOTHING, digits, gigabytes, seconds, table, too_small
from harness.record import Tolerance, read_run

_EXAMPLES = """examples:
  python -m harness.compare results/A results/B
  python -m harness.compare results/A results/B --metric latency.p95 --metric span.encoder.p50
  python -m harness.compare results/A results/B --subject frontend.vad --max-wer-difference 0.01

the ratio is B/A with its 95 % interval; below 1 B takes less (for rtfx, above 1 B does more)

exit codes:
  0 compared   2 wrong usage or unreadable run   4 a run is invalid, incomplete or profiled, or the
  outputs differ and the speed is withheld   6 not comparable
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded(lambda: _compare_all(options))


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """What ``compare`` and ``gate`` have in common."""
    parser.add_argument(
        "--subject",
        action="append",
        default=[],
        metavar="FIELD",
        help="a field that may differ, e.g. frontend.vad or library.torch; may be given again",
    )
    parser.add_argument(
        "--max-wer-difference",
        type=float,
        metavar="X",
        help="allow the word error rate to grow by X (0.01: one point), whatever the variants declare",
    )


def tolerance_of(options: argparse.Namespace) -> Tolerance | None:
    limit = options.max_wer_difference
    return None if limit is None else Tolerance("wer", limit)


def text_of(comparison: Comparison) -> str:
    """The comparison as the command prints it."""
    a, b = comparison.a.run, comparison.b.run
    lines = [f"A  {a.variant}  {a.run_id}", f"B  {b.variant}  {b.run_id}", ""]
    if comparison.withheld is not None:
        lines += [f"speed withheld: {comparison.withheld}", ""]
    if comparison.changes:
        rows = [change_cells(change) for change in comparison.changes]
        lines.append(table(("metric", "scope", "A", "B", "B/A", "95 % interval", "verdict"), rows))
    return "\n".join([*lines, *(f"\nnote: {note}" for note in notes(comparison))])


def notes(comparison: Comparison) -> list[str]:
    """What a careful reader should know about the intervals, each with what to do about it."""
    found = []
    if min(len(comparison.a.run.processes), len(comparison.b.run.processes)) < 2:
        found.append(
            "one process a run: the intervals do not cover differences between processes; "
            "measure with runner.processes=5"
        )
    if comparison.a.run.series is not None and comparison.a.run.series == comparison.b.run.series:
        found.append(
            "the runs were interleaved: B/A is the ratio within rounds, whatever the machine's speed did "
            "from one round to the next"
        )
    else:
        found.append(
            "the runs were not interleaved: drift of the machine between them counts as a difference; "
            "measure them with python -m harness.interleave"
        )
    if any(isinstance(change.change, TooSmall) for change in comparison.changes):
        found.append("some samples are too small for their percentile; raise workload.requests")
    return found


def change_cells(change: Change) -> tuple[str, str, str, str, str, str, str]:
    """One row: metric, scope, A, B, change, interval, verdict."""
    name, scope = change.metric.name, change.scope
    values = (value_text(change, change.a), value_text(change, change.b))
    match change.change:
        case TooSmall() as small:
            return name, scope, *values, NOTHING, NOTHING, too_small(small)
        case Estimate() as e if change.is_difference:
            interval = f"[{e.low * 100:+.2f}, {e.high * 100:+.2f}]"
            return name, scope, *values, f"{e.value * 100:+.2f} points", interval, direction(change)
        case Estimate() as e:
            return name, scope, *values, f"{e.value:.3f}", f"[{e.low:.3f}, {e.high:.3f}]", direction(change)


def direction(change: Change) -> str:
    """``better``, ``worse``, or ``no difference shown`` where the interval contains none."""
    cost = change.cost
    if isinstance(cost, TooSmall):
        return too_small(cost)
    nothing = 0.0 if change.is_difference else 1.0
    if cost.high < nothing:
        return "better"
    return "worse" if cost.low > nothing else "no difference shown"


def value_text(change: Change, value: float | None) -> str:
    """A metric's value in its unit."""
    if value is None:
        return NOTHING
    if change.metric.kind is Kind.MEMORY:
        return gigabytes(value)
    if change.metric.kind is Kind.WER:
        return f"{value:.2%}"
    return seconds(value) if change.metric.column.endswith("_s") else digits(value)


def _compare_all(options: argparse.Namespace) -> int:
    metrics = [metric(name) for name in options.metric] if options.metric else None
    a = read_run(options.a)
    code = ExitCode.DONE
    for folder in options.b:
        comparison = compare_runs(
            a, read_run(folder), metrics, subjects=options.subject, tolerance=tolerance_of(options)
        )
        print(text_of(comparison), end="\n\n")
        code = max(code, ExitCode.DONE if comparison.withheld is None else ExitCode.INVALID)
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.compare",
        description="Compare runs: ratios with intervals per metric and length bucket.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder of the run to compare with")
    parser.add_argument("b", type=Path, nargs="+", metavar="B", help="folder of one or more other runs")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="only this metric; may be given again (default: the usual)",
    )
    add_comparison_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
