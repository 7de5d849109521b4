"""One claim tested: whether it can be, the pair measured, compared and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.claims.leaf import Leaf, Within
from harness.claims.reference import in_short, reference_rows
from harness.claims.verdict import Verdict, verdict_of, within_of
from harness.compare import effect_cells, notes
from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.config.rules import check
from harness.errors import ExitCode, HarnessError, UnavailableError
from harness.interleave import Budget, interleaved
from harness.measure.effects import Effect
from harness.measure.metrics import ALL
from harness.measure.offline import OfflineFigures, offline_figures
from harness.measure.stats import TooSmall
from harness.measure.text import digits, seconds
from harness.record import StoredRun, VerdictStatus
from harness.report import write_report
from harness.run.launcher import measured
from harness.run.session import RunSession
from harness.side_by_side import Comparison, compare_runs

Measure = Callable[[Sequence[Sequence[str]], Budget], tuple[list[StoredRun], list[HarnessError]]]
"""``harness.interleave.interleaved``: a run for each list of overrides, and what ended the others."""
COLUMNS = ("metric", "scope", "baseline", "candidate", "ratio", "95 % interval", "shown")


@dataclass(frozen=True)
class Finding:
    """A claim's outcome. ``rows`` are the comparison's, ``reference`` those of named machines; ``charts``
    are paths within the report's folder, ``runs`` the folders of the pair."""

    number: int
    leaf: Leaf
    pair: tuple[Sequence[str], Sequence[str]]
    verdict: Verdict
    measured: str
    rows: Sequence[Mapping[str, Any]] = ()
    reference: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    charts: Sequence[str] = ()
    runs: Sequence[str] = ()
    exit_code: ExitCode = ExitCode.DONE

    def as_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {
            "number": self.number,
            "claim": self.leaf.claim,
            "baseline": list(self.pair[0]),
            "candidate": list(self.pair[1]),
            "rule": self.leaf.rule,
            "verdict": str(self.verdict),
            "measured": self.measured,
            "rows": [dict(row) for row in self.rows],
            "reference": [dict(row) for row in self.reference],
            "notes": list(self.notes),
            "charts": list(self.charts),
            "runs": list(self.runs),
        }


def _measured_by_itself(side: Sequence[str]) -> StoredRun:
    return measured(RunSession(compose_run(side), side))


@dataclass(frozen=True)
class Tester:
    """Where claims are tested and how often. ``machine``, ``measure`` and ``measure_one`` are this machine,
    the project's own interleaver, and a plain run."""

    folder: Path
    rounds: int
    quick: bool = False
    overrides: Sequence[str] = ()
    machine: Machine | None = None
    measure: Measure = interleaved
    measure_one: Callable[[Sequence[str]], StoredRun] = _measured_by_itself

    def test(self, number: int, leaf: Leaf) -> Finding:
        """Raises ``UsageError`` for overrides that can never run; what this machine lacks and what goes
        wrong while measuring is a finding."""
        pair = leaf.pair(self.overrides, self.quick)
        found = Finding(number, leaf, pair, Verdict.NOT_BUILT, leaf.not_built or "")
        if leaf.not_built is not None:
            return found
        try:
            for side in filter(None, pair):
                check(compose_run(side), self.machine)
            return self._measured(found) if leaf.within is None else self._measured_alone(found, leaf.within)
        except UnavailableError as error:
            return _elsewhere(replace(found, verdict=Verdict.CANNOT_RUN, measured=str(error)))

    def _measured_alone(self, found: Finding, within: Within) -> Finding:
        side = [*found.pair[1], f"runner.processes={self.rounds}"]
        try:
            stored = self.measure_one(side)
        except UnavailableError:
            raise
        except HarnessError as error:
            return replace(found, verdict=Verdict.FAILED, measured=str(error), exit_code=error.exit_code)
        found = replace(found, runs=[str(stored.folder)], charts=drawn(found.number, [stored], self.folder))
        return judged_within(found, within, stored)

    def _measured(self, found: Finding) -> Finding:
        runs, errors = self.measure(found.pair, Budget(self.rounds))
        found = replace(found, runs=[str(stored.folder) for stored in runs])
        for error in errors:
            if isinstance(error, UnavailableError):
                raise error
            return replace(found, verdict=Verdict.FAILED, measured=str(error), exit_code=error.exit_code)
        baseline, candidate = runs
        return judged(replace(found, charts=drawn(found.number, runs, self.folder)), baseline, candidate)


def drawn(number: int, runs: Sequence[StoredRun], folder: Path) -> list[str]:
    """The pair's page, below ``folder``; returns its charts, relative to it."""
    page = folder / f"claim-{number}"
    write_report(runs, page)
    return sorted(str(chart.relative_to(folder)) for chart in page.glob("*.png"))


def judged(found: Finding, a: StoredRun, b: StoredRun) -> Finding:
    """``found`` with what the pair of runs says."""
    invalid = [stored for stored in (a, b) if stored.run.verdict.status is not VerdictStatus.VALID]
    if invalid:
        return _not_valid(found, a, b, invalid)
    comparison = compare_runs(a, b, found.leaf.metrics)
    rows = [dict(zip(COLUMNS, effect_cells(change), strict=True)) for change in comparison.effects]
    found = replace(found, rows=rows, notes=notes(comparison))
    if comparison.withheld is not None:
        return replace(found, verdict=Verdict.NOT_HERE, measured=f"speed withheld: {comparison.withheld}")
    verdict = verdict_of(found.leaf, comparison.effects)
    return replace(found, verdict=verdict, measured=_sentence(found.leaf, comparison))


def judged_within(found: Finding, within: Within, stored: StoredRun) -> Finding:
    """``found`` with what an offline run says. What it took is told of every process."""
    if stored.run.verdict.status is not VerdictStatus.VALID:
        why = [f"{stored.run.run_id}: {reason.message}" for reason in stored.run.verdict.reasons]
        return replace(found, verdict=Verdict.UNDECIDED, measured="; ".join(why))
    figures = offline_figures(stored)
    walls_s, audio_s = [each.wall_s for each in figures], [each.audio_s for each in figures]
    took = ", ".join(map(seconds, walls_s))
    heard = f"{digits(min(audio_s, default=0.0) / 3600)} h"
    note = "every process of the run; the slowest decides"
    enough = min(audio_s, default=0.0) >= within.audio_s
    beside = "" if enough else f": the claim speaks of {within.audio_s / 3600:g} h"
    rows = [_process_row(n, each) for n, each in enumerate(figures)]
    verdict = within_of(within, audio_s, walls_s)
    return replace(found, verdict=verdict, measured=f"{heard} in {took}{beside}", rows=rows, notes=[note])


def _process_row(process: int, figures: OfflineFigures) -> Mapping[str, Any]:
    told = {"audio": seconds(figures.audio_s), "wall": seconds(figures.wall_s), "RTFx": digits(figures.rtfx)}
    return {"process": process, **told}


def _not_valid(found: Finding, a: StoredRun, b: StoredRun, invalid: Sequence[StoredRun]) -> Finding:
    """Numbers of such runs are not quoted. That one side does not serve the load may be an answer; that
    the clients were late is none, for then nothing is known about the server."""
    why = [f"{s.run.run_id}: {reason.message}" for s in invalid for reason in s.run.verdict.reasons]
    found = replace(found, measured="; ".join(why) or "a run never finished")
    streaming = [p.evidence.get("streaming", {}) for s in (a, b) for p in s.run.processes]
    if any(figures.get("late") for figures in streaming):
        return replace(found, verdict=Verdict.CANNOT_RUN)
    if not (found.leaf.not_serving_decides and all(_serving_alone(stored) for stored in invalid)):
        return replace(found, verdict=Verdict.UNDECIDED)
    return replace(found, verdict=Verdict.NOT_HERE if b in invalid else Verdict.REPRODUCED)


def _serving_alone(stored: StoredRun) -> bool:
    """Whether streams that were lost or failed are all that is wrong."""
    return {reason.rule for reason in stored.run.verdict.reasons} <= {"streams", "requests", "parity"}


def _sentence(leaf: Leaf, comparison: Comparison) -> str:
    """The figures that the rule speaks of."""
    wanted = {(c.metric, c.scope) for c in (*leaf.holds, *leaf.partly)}
    changes = [c for c in comparison.effects if (c.metric.name, c.scope) in wanted]
    return "; ".join(map(_figures, changes)) or "no figure of the rule could be measured"


def _figures(change: Effect) -> str:
    name, scope, a, b, ratio, interval, shown = effect_cells(change)
    what = name if scope == ALL else f"{name} in {scope}"
    return (
        f"{what} {shown}" if isinstance(change.change, TooSmall) else f"{what} {a} -> {b}, {ratio} {interval}"
    )


def _elsewhere(found: Finding) -> Finding:
    """With what reference machines measured, by name: nothing is inferred from it about this one."""
    rows = reference_rows(found.leaf)
    if not rows:
        return found
    note = "The figures of reference machines are from results/reference, not of this one."
    beside = "; ".join(in_short(rows))
    return replace(found, measured=f"{found.measured}; {beside}", reference=rows, notes=[note])
