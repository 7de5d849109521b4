"""One configuration measured from start to report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import ExitCode
from harness.measure.live import figures_text
from harness.record import StoredRun, VerdictStatus
from harness.run.session import RunSession


def measure_and_report(config: RunConfig, overrides: Sequence[str], resume: bool) -> StoredRun:
    """Measure, print the table, write the report; or find what was measured before."""
    session = RunSession(config, overrides)
    if resume and (earlier := session.finished()) is not None:
        print(
            f"{config.variant}: already measured in {earlier.folder} (same content); skipped", file=sys.stderr
        )
        return earlier
    if resume:
        session.go_on()
    stored = measured(session)
    report(stored)
    return stored


def measured(session: RunSession) -> StoredRun:
    """The run of ``session``, process after process."""
    with session:
        session.reference()
        for process in range(session.config.runner.processes):
            session.measure(process)
        return session.finish()


def report(stored: StoredRun) -> int:
    """Print the summary of a run and write its page; the code says whether it may be quoted."""
    from harness.report import text_summary, write_report

    print(text_summary(stored))
    for process in stored.run.processes:
        if figures := process.evidence.get("streaming"):
            print(f"\nprocess {process.index}, live\n{figures_text(figures)}")
        if search := process.evidence.get("search"):
            print(f"\nprocess {process.index}: {_searched(search)}")
    page = write_report([stored], stored.folder / "report")
    print(f"\nresults  {stored.folder}\nreport   {_relative(page)}")
    return exit_code(stored)


def _searched(search: Mapping[str, Any]) -> str:
    limit = f"a p95 of {search['limit_s'] * 1e3:g} ms"
    if search["largest_per_s"] is None:
        return (
            f"no rate of arrivals that was tried holds {limit}: {'; '.join(search['steps'][-1]['reasons'])}"
        )
    failed = search["smallest_failed_per_s"]
    beyond = "the largest allowed" if failed is None else f"{failed:g} do not"
    return f"{search['largest_per_s']:g} arrivals a second hold {limit}; {beyond}"


def exit_code(stored: StoredRun) -> int:
    """A run without a reference did what it was asked for; whoever compares or publishes it is refused."""
    done = stored.run.verdict.status in (VerdictStatus.VALID, VerdictStatus.UNVERIFIED)
    return int(ExitCode.DONE if done else ExitCode.INVALID)


def _relative(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
