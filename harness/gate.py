"""Did this change make it worse? ``python -m harness.gate --of BASELINE --of CANDIDATE``.

Measures both side by side, in rounds of one process each, and looks after some of the rounds whether
every required rule is decided; if not, it measures on, until it is or the budget ends. With ``--baseline``
and ``--candidate`` it judges two runs that were measured before, with ``--against`` one by the history of its
command (``harness.gate_history``). ``harness.gate_decision`` says how.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.arguments import result_file
from harness.command import command, end_on_signals, guarded
from harness.compare import add_comparison_options, tolerance_of
from harness.errors import HarnessError, UsageError
from harness.files import write_atomically, write_text
from harness.gate_decision import judge_runs
from harness.gate_files import junit, markdown
from harness.gate_history import judge_against
from harness.gate_result import GateResult, Rule
from harness.gate_rules import read_rules
from harness.interleave import Budget, add_budget_options, interleaved, overrides_of
from harness.interleave import looking as until_decided
from harness.paths import conf_dir
from harness.record import read_run

_EXAMPLES = """examples:
  python -m harness.gate --of variant=gc_default --of variant=gc_frozen dataset=voice_agent
  python -m harness.gate --of variant=eager --of variant=compiled --rounds 64 --minutes 120
  python -m harness.gate --baseline results/main --candidate results/branch
  python -m harness.gate --against results --candidate results/NEWEST
  python -m harness.gate --baseline B --candidate C --thresholds my.yaml --markdown g.md --junit g.xml

exit codes:
  0 the same or improved   2 wrong usage or unreadable file   4 a run is invalid, incomplete or profiled,
  or the outputs differ and the speed is withheld   5 regression   6 not comparable   7 inconclusive
"""
ROUNDS = 32
MINUTES = 60.0


def run_gate(baseline: Path, candidate: Path, rules: Sequence[Rule], **options: Any) -> GateResult:
    """Compare two run folders and decide; ``options`` are those of ``compare_runs``.

    Raises ``UsageError`` for a folder that is no run.
    """
    return judge_runs(read_run(baseline), read_run(candidate), rules, **options)


def measure_and_judge(
    configurations: Sequence[Sequence[str]], budget: Budget, rules: Sequence[Rule], **options: Any
) -> GateResult:
    """Measure a baseline and a candidate until the rules are decided or the budget ends.

    Raises what ended a variant that could not be measured.
    """
    runs, errors = interleaved(configurations, budget, until_decided(budget, rules, **options))
    if errors:
        raise errors[0]
    for stored in runs:
        print(f"results  {stored.folder}", file=sys.stderr)
    return judge_runs(runs[0], runs[1], rules, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    end_on_signals()
    return guarded(lambda: _gate(options))


def _gate(options: argparse.Namespace) -> int:
    _check_sides(options)
    sides = options.of or [str(options.against or options.baseline), str(options.candidate)]
    try:
        result = _result(options)
    except HarnessError as error:
        # A CI job that collects these files must find out there why the gate did not open.
        result = GateResult(error.exit_code, str(error), *sides)
    if options.markdown:
        write_text(options.markdown, markdown(result))
    if options.junit:
        write_atomically(options.junit, lambda file: file.write(junit(result)))
    stream = sys.stdout if result.judgements else sys.stderr
    print(markdown(result) if result.judgements else f"error: {result.reason}", file=stream)
    return int(result.exit_code)


def _check_sides(options: argparse.Namespace) -> None:
    baselines = [side for side in (options.baseline, options.against) if side is not None]
    stored = [*baselines, *([] if options.candidate is None else [options.candidate])]
    if (len(options.of), len(baselines), len(stored)) not in ((2, 0, 0), (0, 1, 2)):
        raise UsageError(
            "name two sides: --of OVERRIDES twice to measure them, or --candidate with --baseline or "
            "--against to judge runs that were measured before"
        )
    if stored and options.common:
        raise UsageError(f"{options.common[0]}: overrides are for measuring; these runs have been measured")


def _result(options: argparse.Namespace) -> GateResult:
    rules = read_rules(options.thresholds)
    how = {"subjects": options.subject, "tolerance": tolerance_of(options)}
    if options.against is not None:
        return judge_against([options.against], read_run(options.candidate), rules, **how)
    if not options.of:
        return run_gate(options.baseline, options.candidate, rules, **how)
    configurations = [[*options.common, *overrides_of(own)] for own in options.of]
    return measure_and_judge(configurations, Budget.of(options), rules, **how)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gate",
        description="Decide whether a candidate is worse than a baseline.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--of",
        action="append",
        default=[],
        metavar="OVERRIDES",
        help="measure this variant: overrides in one quoted string; first the baseline, then the candidate",
    )
    add_budget_options(parser, rounds=ROUNDS, minutes=MINUTES)
    parser.add_argument("--baseline", type=Path, metavar="B", help="folder of the run to hold to")
    parser.add_argument(
        "--against", type=Path, metavar="RUNS", help="folder of earlier runs of the candidate's command"
    )
    parser.add_argument("--candidate", type=Path, metavar="C", help="folder of the run to judge")
    parser.add_argument(
        "--thresholds",
        type=Path,
        default=conf_dir() / "gate.yaml",
        metavar="YAML",
        help="limits per metric and bucket (default: conf/gate.yaml)",
    )
    parser.add_argument("--markdown", type=result_file, metavar="FILE", help="write the result as Markdown")
    parser.add_argument("--junit", type=result_file, metavar="FILE", help="write the result as JUnit XML")
    add_comparison_options(parser)
    parser.add_argument("common", nargs="*", metavar="key=value", help="overrides that both sides share")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
