"""How much faster is B than A? ``python -m harness.compare A B``.

Prints the ratio B/A of every metric and bucket with its 95 % interval, for runs that stand on the
same ground and give the same answers.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.arguments import share
from harness.command import command, guarded
from harness.errors import ExitCode
from harness.measure.contrast import MINIMUM_PROCESSES
from harness.measure.effects import Effect
from harness.measure.metrics import Kind, metric
from harness.measure.stats import CONFIDENCE, Estimate, TooSmall
from harness.measure.text import NOTHING, digits, gigabytes, seconds, table, too_small
from harness.record import Tolerance, read_run
from harness.side_by_side import Comparison, compare_runs

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
        type=share,
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
    if comparison.effects:
        rows = [effect_cells(effect) for effect in comparison.effects]
        lines.append(table(("metric", "scope", "A", "B", "B/A", "95 % interval", "verdict"), rows))
    return "\n".join([*lines, *(f"\nnote: {note}" for note in notes(comparison))])


def notes(comparison: Comparison) -> list[str]:
    """What a careful reader should know about the intervals, each with what to do about it."""
    found = []
    processes = min(len(comparison.a.run.processes), len(comparison.b.run.processes))
    if processes < MINIMUM_PROCESSES:
        found.append(
            f"{processes} of {MINIMUM_PROCESSES} processes a run: too few for an interval, since how "
            "processes differ is not known; measure with python -m harness.interleave"
        )
    if comparison.interleaved:
        found.append(
            "the runs were interleaved: B/A is the ratio within rounds, whatever the machine's speed did "
            "from one round to the next"
        )
    else:
        found.append(
            "the runs were not interleaved: drift of the machine between them counts as a difference; "
            "measure them with python -m harness.interleave"
        )
    if any(isinstance(effect.contrast, TooSmall) for effect in comparison.effects):
        found.append("some samples are too small for their percentile; raise workload.requests")
    return found


def effect_cells(effect: Effect, confidence: float = CONFIDENCE) -> tuple[str, str, str, str, str, str, str]:
    """One row: metric, scope, A, B, change, interval, verdict."""
    name, scope = effect.metric.name, effect.scope
    values = (value_text(effect, effect.a), value_text(effect, effect.b))
    match effect.change_at(confidence):
        case TooSmall() as small:
            return name, scope, *values, NOTHING, NOTHING, too_small(small)
        case Estimate() as e:
            change, interval = _change_texts(e, effect.is_difference)
            return name, scope, *values, change, interval, direction(effect)


def _change_texts(e: Estimate, is_difference: bool) -> tuple[str, str]:
    bounded = math.isfinite(e.high)
    if is_difference:
        interval = f"[{e.low * 100:+.2f}, {e.high * 100:+.2f}]"
        return f"{e.value * 100:+.2f} points", interval if bounded else NOTHING
    return f"{e.value:.3f}", f"[{e.low:.3f}, {e.high:.3f}]" if bounded else NOTHING


def direction(effect: Effect) -> str:
    """``better``, ``worse``, or ``no difference shown`` where the interval contains none."""
    cost = effect.cost(CONFIDENCE)
    if isinstance(cost, TooSmall):
        return too_small(cost)
    nothing = 0.0 if effect.is_difference else 1.0
    if cost.high < nothing:
        return "better"
    return "worse" if cost.low > nothing else "no difference shown"


def value_text(effect: Effect, value: float | None) -> str:
    """A metric's value in its unit."""
    if value is None:
        return NOTHING
    if effect.metric.kind is Kind.MEMORY:
        return gigabytes(value)
    if effect.is_difference:
        return f"{value:.2%}"
    return seconds(value) if effect.metric.column.endswith("_s") else digits(value)


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
