"""Measures several variants side by side: ``python -m harness.interleave``.

Machines drift: clocks, temperature, neighbours. Runs measured one after the other compare the
drift as much as the variants. Here a round launches one process of every variant, and they take
turns: each serves ``runner.turn_requests`` requests while the others wait, so that even what lasts
seconds falls on all of them alike. The order turns round from one round to the next (A B, B A, A B,
…). A schedule of arrivals does not wait: there, with unequal numbers of requests, and with
``runner.turn_requests=0`` (two models that do not fit into memory together), whole processes take
turns. Each variant still gets a run of its own in the results folder; the runs share a series, and
``harness.compare`` pairs their processes by block. A variant that fails leaves the others their turns.

With ``--until 0.03`` rounds are added until each required rule of the gate is decided for every
variant against the first, or its interval is within 3 %, or the budget of rounds or minutes ends.
"""

from __future__ import annotations

import argparse
import math
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.arguments import positive_integer, positive_number, share
from harness.command import command, end_on_signals, guarded
from harness.compare import add_comparison_options, tolerance_of
from harness.config.load import compose_run
from harness.errors import ExitCode, HarnessError, UsageError
from harness.gate_decision import half_width, judge_runs, looks, open_questions
from harness.gate_result import GateResult, Rule
from harness.gate_rules import read_rules
from harness.measure.text import NOTHING
from harness.paths import conf_dir
from harness.record import StoredRun
from harness.run.launcher import exit_code, report
from harness.run.session import RunSession, measure_side_by_side, take_turns

_EXAMPLES = """examples:
  python -m harness.interleave --of variant=gc_default --of variant=gc_frozen
  python -m harness.interleave --of variant=eager --of variant=compiled --until 0.03
  python -m harness.interleave --of variant=eager --of 'variant=eager model.precision=bf16' \\
      dataset=voice_agent --rounds 6
  python -m harness.compare RUN_A RUN_B        then: the ratio and its interval

exit codes: as python -m harness; the first variant that failed or whose run is not valid decides
"""
ROUNDS = 8
ROUNDS_UNTIL = 32
MINUTES = 60.0

Enough = Callable[[Sequence[StoredRun], int], bool]
"""Whether what so many rounds measured is enough."""
Failed = Callable[[Sequence[str], HarnessError], None]
"""Hears at once which variant, by its overrides, ended early and of what."""


@dataclass(frozen=True)
class Budget:
    """The most rounds that may be measured, and the time after which no round is begun."""

    rounds: int
    seconds: float = math.inf

    @classmethod
    def of(cls, options: argparse.Namespace) -> Budget:
        return cls(options.rounds, options.minutes * 60)


def interleaved(
    configurations: Sequence[Sequence[str]],
    budget: Budget,
    enough: Enough = lambda _runs, _rounds: False,
    failed: Failed = lambda _overrides, _error: None,
) -> tuple[list[StoredRun], list[HarnessError]]:
    """Measure each list of overrides in rounds of one process each, taking turns.

    After some of the rounds (``gate_decision.looks``) ``enough`` is asked whether to go on. Returns a run
    each, in order, of those that could be measured, and what ended the others: a variant that fails
    costs the rest nothing that was measured.
    """
    if len(configurations) < 2:
        raise UsageError("--of: name at least two variants to interleave, each with an --of of its own")
    series = secrets.token_hex(4)
    sessions = [RunSession(compose_run(overrides), overrides, series) for overrides in configurations]
    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session)
        for session in sessions:
            session.reference(sessions)
        together = take_turns([session.config for session in sessions])
        going, errors = list(sessions), []
        for block in _blocks(budget):
            turns = going if block % 2 == 0 else going[::-1]
            for session, error in _round(turns, block, together):
                session.abandon(error)
                going.remove(session)
                errors.append(error)
                failed(session.overrides, error)
            for session in going:
                session.take_answers(going)
            if len(going) < 2 or (block + 1 in looks(budget.rounds) and _is_enough(going, block + 1, enough)):
                break
        for session in going:
            session.reference(going)  # where the eager variant, whose answers were to be it, has failed
        return [session.finish() for session in going], errors


def _blocks(budget: Budget) -> Iterator[int]:
    """Rounds, for as long as one more is likely to end in time."""
    start_s, longest_s = time.monotonic(), 0.0
    for block in range(budget.rounds):
        began_s = time.monotonic()
        if block and began_s - start_s + longest_s > budget.seconds:
            return
        yield block
        longest_s = max(longest_s, time.monotonic() - began_s)


def _is_enough(going: Sequence[RunSession], rounds: int, enough: Enough) -> bool:
    return enough([session.so_far() for session in going], rounds)


def looking(budget: Budget, rules: Sequence[Rule], narrow: float | None = None, **options: Any) -> Enough:
    """Enough when every variant's required rules against the first are decided, or within ``narrow``;
    says at each look what is still open."""

    def enough(runs: Sequence[StoredRun], rounds: int) -> bool:
        results = [judge_runs(runs[0], other, rules, **options) for other in runs[1:]]
        lines = [line for result in results for line in _still_open(result, narrow)]
        more = f"; at most {budget.rounds} rounds" if lines and rounds < budget.rounds else ""
        state = "; ".join(lines) or "; ".join(result.reason for result in results)
        print(f"after {rounds} rounds: {state}{more}", file=sys.stderr, flush=True)
        return not lines

    return enough


def _still_open(result: GateResult, narrow: float | None) -> Iterator[str]:
    """What more rounds could decide: nothing in runs that may not be compared."""
    if result.exit_code is ExitCode.INCONCLUSIVE:
        for judgement in open_questions(result.judgements, narrow):
            width = half_width(judgement)
            yield f"{judgement.name} open, ±{f'{width:.1%}' if math.isfinite(width) else NOTHING}"


def _round(turns: Sequence[RunSession], block: int, together: bool) -> list[tuple[RunSession, HarnessError]]:
    """Process number ``block`` of each, and those that failed."""
    if together:
        return measure_side_by_side(turns, block) if turns else []
    failed = []
    for session in turns:
        try:
            session.measure(block, block)
        except HarnessError as error:
            failed.append((session, error))
    return failed


def add_budget_options(parser: argparse.ArgumentParser, rounds: int | None, minutes: float) -> None:
    limits = f"{ROUNDS}; with --until at most {ROUNDS_UNTIL}" if rounds is None else f"at most {rounds}"
    parser.add_argument(
        "--rounds",
        type=positive_integer,
        default=rounds,
        help=f"processes of each variant (default: {limits})",
    )
    parser.add_argument(
        "--minutes",
        type=positive_number,
        default=minutes,
        help=f"begin no round that is likely to end later (default: {minutes:g})",
    )


def overrides_of(words: str) -> list[str]:
    """The overrides in one ``--of``, quoted as in a shell."""
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UsageError(f"--of {words!r}: {error}; quote paths with spaces as in a shell") from error


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    end_on_signals()
    return guarded(lambda: _interleave(options))


def _interleave(options: argparse.Namespace) -> int:
    configurations = [[*options.common, *overrides_of(own)] for own in options.of]
    if options.until is None:
        budget = Budget(options.rounds or ROUNDS, options.minutes * 60)
        runs, errors = interleaved(configurations, budget)
    else:
        budget = Budget(options.rounds or ROUNDS_UNTIL, options.minutes * 60)
        how = {"subjects": options.subject, "tolerance": tolerance_of(options)}
        rules = read_rules(options.thresholds)
        runs, errors = interleaved(configurations, budget, looking(budget, rules, options.until, **how))
    for stored in runs:
        report(stored)
    if len(runs) > 1:
        folders = " ".join(str(stored.folder) for stored in runs)
        print(f"\ncompare  python -m harness.compare {folders}")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    codes = [int(error.exit_code) for error in errors] + [exit_code(stored) for stored in runs]
    return next((code for code in codes if code), int(ExitCode.DONE))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.interleave",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--of",
        action="append",
        required=True,
        metavar="OVERRIDES",
        help="overrides of one variant, in one quoted string; give it once per variant",
    )
    add_budget_options(parser, rounds=None, minutes=MINUTES)
    parser.add_argument(
        "--until",
        type=share,
        metavar="SHARE",
        help="add rounds until the gate's required rules are decided or known within this share (0.03: 3 %%)",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        default=conf_dir() / "gate.yaml",
        metavar="YAML",
        help="the rules of --until (default: conf/gate.yaml)",
    )
    add_comparison_options(parser)
    parser.add_argument("common", nargs="*", metavar="key=value", help="overrides that all variants share")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
