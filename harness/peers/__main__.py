"""``python -m harness.peers``: engines that people know beside ours, measured in turns, in one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.arguments import positive_integer
from harness.command import command, end_on_signals, guarded
from harness.errors import ExitCode
from harness.peers.lineup import Lineup, lineups, read_lineup
from harness.peers.standing import Outcome, by_model, measure, standings
from harness.peers.table import terminal, write
from harness.record import read_run
from harness.run.launcher import exit_code

_ROUNDS = 6
_EXAMPLES = """examples:
  python -m harness.peers                                      parakeet_tiny in every engine that is installed
  python -m harness.peers --models onnx_asr,sherpa_onnx --rounds 8 dataset=read_speech
  python -m harness.peers --of whisper_tiny_en model.weights=/models/faster-whisper-tiny.en
  python -m harness.peers --quick --out /tmp/peers             does it work, not who is faster
  python -m harness.peers --runs results/RUN_A results/RUN_B   the table again, of runs that were measured

A line-up is a leaf of conf/peers: a model's weights, and the engines that hear them. An engine whose package
is missing is in the table with that reason. Every engine gets the same audio, the same number of threads
(runner.threads) and greedy search, on the CPU unless model.device says otherwise; one whose words are not
ours, within the line-up's limit, has its speed withheld.

exit codes:
  0 measured, whoever is faster   2 wrong usage   3 none can run here   else that of the first engine that
  failed or whose run is not valid
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    end_on_signals()
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    lineup = read_lineup(options.of).only(options.models)
    outcome = _outcome(lineup, options)
    found = standings(lineup, outcome)
    print(terminal(found))
    print(f"\ntable    {write(lineup, found, options.out)}")
    for stored in outcome.runs.values():
        print(f"results  {stored.folder}")
    codes = [int(error.exit_code) for error in outcome.errors]
    codes += [exit_code(stored) for stored in outcome.runs.values()]
    return next((code for code in codes if code), int(ExitCode.DONE))


def _outcome(lineup: Lineup, options: argparse.Namespace) -> Outcome:
    if options.runs:
        return Outcome(by_model(map(read_run, options.runs), lineup), {})
    rounds = options.rounds or (1 if options.quick else _ROUNDS)
    return measure(lineup, rounds, options.overrides, options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.peers",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--of",
        default="parakeet_tiny",
        metavar="LINE-UP",
        help=f"{', '.join(lineups())} (default: %(default)s)",
    )
    add("--models", metavar="A,B", help="these of its engines alone, and ours (default: all)")
    add(
        "--rounds",
        type=positive_integer,
        metavar="N",
        help=f"processes of each engine, taking turns (default: {_ROUNDS}; with --quick 1)",
    )
    add("--quick", action="store_true", help="everything once and small: does it work, not who is faster")
    add("--runs", nargs="+", type=Path, metavar="RUN", help="measure nothing: the table of these runs")
    add(
        "--out",
        type=Path,
        default=Path("reports/peers"),
        metavar="DIR",
        help="folder of the table and the chart (default: %(default)s)",
    )
    add(
        "overrides", nargs="*", metavar="key=value", help="overrides of every engine, after the line-up's own"
    )
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
