"""``python -m harness.claims``: test the published claims on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.arguments import positive_integer
from harness.claims import report
from harness.claims.finding import Finding, Tester
from harness.claims.leaf import Leaf, read_leaves
from harness.command import command, end_on_signals, guarded
from harness.errors import ExitCode, UsageError
from harness.files import explained

_ROUNDS = 4
_EXAMPLES = """examples:
  python -m harness.claims                                    all, with what this machine cannot run named
  python -m harness.claims --claims 6 workload.requests=200   one, with other settings for both sides
  python -m harness.claims --quick --out /tmp/claims          does it work, not what is it worth

A claim is a leaf of conf/claims: the pair, the rule of the verdict, and what --quick changes.

exit codes:
  0 tested, whatever the verdict   2 wrong usage   else that of the first claim that could not be measured
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    end_on_signals()
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    leaves = read_leaves()
    chosen = _numbers(options.claims, leaves)
    folder: Path = options.out
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rounds = options.rounds or (1 if options.quick else _ROUNDS)
    tester = Tester(folder, rounds, options.quick, options.overrides)
    conditions = {
        "rounds": rounds,
        "quick": options.quick,
        "overrides": " ".join(options.overrides) or "none",
    }
    findings: list[Finding] = []
    for number in chosen:
        print(f"claim {number}: {leaves[number].claim}", file=sys.stderr)
        findings.append(tester.test(number, leaves[number]))
        print(report.terminal(findings[-1]))
        # After each: an interrupted run leaves what it has measured.
        page = report.write(findings, folder, conditions)
    print(f"\nreport   {page}")
    codes = [finding.exit_code for finding in findings]
    return int(next((code for code in codes if code), ExitCode.DONE))


def _numbers(text: str, leaves: Mapping[int, Leaf]) -> list[int]:
    if text == "all":
        return list(leaves)
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--claims {text}: give numbers such as 5,6,7,8, or all") from None
    if unknown := [number for number in numbers if number not in leaves]:
        raise UsageError(f"--claims: there is no claim {unknown[0]}; there are {', '.join(map(str, leaves))}")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.claims",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--claims", default="all", help="numbers, such as 5,6,7,8 (default: all)")
    add(
        "--out",
        type=Path,
        default=Path("reports/claims"),
        metavar="DIR",
        help="folder of the report (default: %(default)s)",
    )
    add(
        "--rounds",
        "--repeats",
        type=positive_integer,
        metavar="N",
        help=f"processes of each side, taking turns (default: {_ROUNDS}; with --quick 1)",
    )
    add("--quick", action="store_true", help="everything once and small: does it work, not what is it worth")
    add("overrides", nargs="*", metavar="key=value", help="overrides of both sides, after the leaf's own")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
