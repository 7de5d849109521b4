"""Measures several variants side by side: ``python -m harness.interleave``.

Machines drift: clocks, temperature, neighbours. Runs measured one after the other compare the
drift as much as the variants. Here a round launches one process of every variant, and they take
turns: each serves ``runner.turn_requests`` requests while the others wait, so that even what lasts
seconds falls on all of them alike. The order turns round from one round to the next (A B, B A, A B,
…). A schedule of arrivals does not wait: there, with unequal numbers of requests, and with
``runner.turn_requests=0`` (two models that do not fit into memory together), whole processes take
turns. Each variant still gets a run of its own in the results folder; the runs share a series, and
``harness.compare`` pairs their processes by block.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from harness.arguments import positive_integer
from harness.command import guarded
from harness.config.load import compose_run
from harness.errors import UsageError
from harness.record import StoredRun
from harness.run.launcher import exit_code, report
from harness.run.session import RunSession, measure_side_by_side, take_turns

_EXAMPLES = """examples:
  python -m harness.interleave --of variant=gc_default --of variant=gc_frozen
  python -m harness.interleave --of variant=eager --of 'variant=eager model.precision=bf16' \\
      dataset=voice_agent --rounds 6
  python -m harness.compare RUN_A RUN_B        then: the ratio and its interval

exit codes: as python -m harness; the first run that is not valid decides
"""


def interleaved(configurations: Sequence[Sequence[str]], rounds: int) -> list[StoredRun]:
    """Measure each list of overrides in ``rounds`` processes, taking turns. One run each, in order."""
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
        for block in range(rounds):
            turns = sessions if block % 2 == 0 else sessions[::-1]
            if together:
                measure_side_by_side(turns, block)
                continue
            for session in turns:
                session.measure(block, block)
        for session in sessions:
            session.take_answers(sessions)
        return [session.finish() for session in sessions]


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
        configurations = [[*options.common, *own.split()] for own in options.of]
        runs = interleaved(configurations, options.rounds)
        for stored in runs:
            report(stored)
        folders = " ".join(str(stored.folder) for stored in runs)
        print(f"\ncompare  python -m harness.compare {folders}")
        return next((code for code in map(exit_code, runs) if code), 0)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
