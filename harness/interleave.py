"""Measures several variants side by side: ``python -m harness.interleave``.

Machines drift: clocks, temperature, neighbours. Runs measured one after the other compare the
drift as much as the variants. Here a round launches one process of every variant, and they take
turns: each serves ``runner.turn_requests`` requests while the others wait, so that even what lasts
seconds falls on all of them alike. The order turns round from one round to the next (A B, B A, A B,
…). A schedule of arrivals does not wait: there, with unequal numbers of requests, and with
``runner.turn_requests=0`` (two models that do not fit into memory together), whole processes take
turns. Each variant still gets a run of its own in the results folder; the runs share a series, and
``harness.compare`` pairs their processes by block. A variant that fails leaves the others their turns.
"""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from harness.arguments import positive_integer
from harness.command import command, end_on_sigterm, guarded
from harness.config.load import compose_run
from harness.errors import ExitCode, HarnessError, UsageError
from harness.record import StoredRun
from harness.run.launcher import exit_code, report
from harness.run.session import RunSession, measure_side_by_side, take_turns

_EXAMPLES = """examples:
  python -m harness.interleave --of variant=gc_default --of variant=gc_frozen
  python -m harness.interleave --of variant=eager --of 'variant=eager model.precision=bf16' \\
      dataset=voice_agent --rounds 6
  python -m harness.compare RUN_A RUN_B        then: the ratio and its interval

exit codes: as python -m harness; the first variant that failed or whose run is not valid decides
"""


def interleaved(
    configurations: Sequence[Sequence[str]], rounds: int
) -> tuple[list[StoredRun], list[HarnessError]]:
    """Measure each list of overrides in ``rounds`` processes, taking turns.

    Returns a run each, in order, of those that could be measured, and what ended the others: a variant
    that fails costs the rest nothing that was measured.
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
        for block in range(rounds):
            turns = going if block % 2 == 0 else going[::-1]
            for session, error in _round(turns, block, together):
                session.abandon(error)
                going.remove(session)
                errors.append(error)
        for session in going:
            session.reference(going)  # where the eager variant, whose answers were to be it, has failed
        for session in going:
            session.take_answers(going)
        return [session.finish() for session in going], errors


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


def main(arguments: Sequence[str] | None = None) -> int:
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
    parser.add_argument(
        "--rounds", type=positive_integer, default=4, help="processes of each variant (default: 4)"
    )
    parser.add_argument("common", nargs="*", metavar="key=value", help="overrides that all variants share")
    options = parser.parse_intermixed_args(arguments)

    def run() -> int:
        configurations = [[*options.common, *shlex.split(own)] for own in options.of]
        runs, errors = interleaved(configurations, options.rounds)
        for stored in runs:
            report(stored)
        if len(runs) > 1:
            folders = " ".join(str(stored.folder) for stored in runs)
            print(f"\ncompare  python -m harness.compare {folders}")
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
        codes = [int(error.exit_code) for error in errors] + [exit_code(stored) for stored in runs]
        return next((code for code in codes if code), int(ExitCode.DONE))

    end_on_sigterm()
    return guarded(run)


if __name__ == "__main__":
    sys.exit(command(main))
