"""Where each engine of a line-up stands: its figures and whether they may be told, or why it has none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.config.rules import check
from harness.errors import HarnessError, UnavailableError, UsageError
from harness.interleave import Budget, Failed, interleaved
from harness.measure.cpu import disturbances
from harness.measure.figure import Figures
from harness.measure.metrics import ALL, metric
from harness.measure.stats import Estimate, Measured
from harness.measure.wer import compare_outputs
from harness.peers.lineup import Engine, Lineup
from harness.printable import one_line
from harness.record import Parity, ParityStatus, StoredRun, Tolerance, VerdictStatus
from harness.run.launcher import measured
from harness.run.session import RunSession
from harness.same_ground import require_comparable
from harness.side_by_side import compare_runs

START_UP = ("import_cpu_s", "build_s", "warm_up_s", "total_s")
"""Of a process, as it says them in its evidence."""
FIGURES = (
    "latency.p50",
    "latency.p95",
    "rtfx",
    "memory.rss",
    *(f"evidence.startup.{step}" for step in START_UP),
    "wer",
)


@dataclass(frozen=True)
class Standing:
    """An engine and its run, if there is one. ``reason``: why there is none, or why its speed is withheld.

    ``ratio`` is its p50 over ours, ``parity`` how its words compare with ours; ours has neither.
    """

    engine: Engine
    stored: StoredRun | None = None
    reason: str | None = None
    ratio: Measured | None = None
    parity: Parity | None = None
    figures: Mapping[str, Measured | None] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """Of the engine's packages, as its run found them."""
        if self.stored is None:
            return {}
        origin = self.stored.run.provenance
        found = {**origin.packages, **origin.model.details.get("packages", {})}
        return {package: found[package] for package in self.engine.packages if package in found}


@dataclass(frozen=True)
class Outcome:
    """Runs by the engine's model, what kept the others from having one, and which of these are failures."""

    runs: Mapping[str, StoredRun]
    reasons: Mapping[str, str]
    errors: Sequence[HarnessError] = ()


def measure(
    lineup: Lineup, rounds: int, given: Sequence[str], quick: bool, machine: Machine | None = None
) -> Outcome:
    """Every engine that can run here, in rounds of one process each, taking turns.

    Raises ``UsageError`` for overrides that can never run, ``UnavailableError`` where none can here.
    """
    _check_weights(lineup, given)
    wanted = {engine.model: lineup.overrides(engine, given, quick) for engine in lineup.engines}
    reasons = dict(_lacking(wanted, machine))
    able = {model: overrides for model, overrides in wanted.items() if model not in reasons}
    if not able:
        raise UnavailableError("; ".join(reasons.values()))

    def failed(overrides: Sequence[str], error: HarnessError) -> None:
        (model,) = (name for name, own in able.items() if own == list(overrides))
        reasons[model] = one_line(str(error))

    runs, errors = _measured(list(able.values()), rounds, failed)
    return Outcome(
        by_model(runs, lineup), reasons, [e for e in errors if not isinstance(e, UnavailableError)]
    )


def _check_weights(lineup: Lineup, given: Sequence[str]) -> None:
    if lineup.needs_weights and not any(override.startswith("model.weights=") for override in given):
        raise UsageError(f"{lineup.title}: none are embedded; give model.weights=FOLDER after the options")


def _lacking(wanted: Mapping[str, Sequence[str]], machine: Machine | None) -> Iterator[tuple[str, str]]:
    for model, overrides in wanted.items():
        try:
            check(compose_run(overrides), machine)
        except UnavailableError as error:
            yield model, str(error)


def _measured(
    able: Sequence[Sequence[str]], rounds: int, failed: Failed
) -> tuple[list[StoredRun], list[HarnessError]]:
    if len(able) > 1:
        return interleaved(able, Budget(rounds), failed=failed)
    alone = [*able[0], f"runner.processes={rounds}"]
    return [measured(RunSession(compose_run(alone), alone))], []


def by_model(runs: Iterable[StoredRun], lineup: Lineup) -> dict[str, StoredRun]:
    """Raises ``UsageError`` naming a run that is of no engine, or of one that has another."""
    found: dict[str, StoredRun] = {}
    engines = [engine.model for engine in lineup.engines]
    for stored in runs:
        model = str(stored.run.config["model"]["name"])
        if model not in engines:
            raise UsageError(f"{stored.folder}: model={model} is none of {', '.join(engines)}; see --of")
        if model in found:
            raise UsageError(
                f"{stored.folder}: {found[model].folder} is of model={model} too; give one of them"
            )
        found[model] = stored
    return found


def standings(lineup: Lineup, outcome: Outcome) -> list[Standing]:
    """In the order of the line-up. Raises ``NotComparableError`` where runs differ in more than the model."""
    ours = outcome.runs.get(lineup.engines[0].model)
    found = []
    for engine in lineup.engines:
        stored = outcome.runs.get(engine.model)
        if stored is None:
            why = outcome.reasons.get(engine.model, "no run of it is among these")
            found.append(Standing(engine, reason=why))
        else:
            found.append(_standing(engine, stored, ours, lineup.max_wer_difference))
    return found


def _standing(engine: Engine, stored: StoredRun, ours: StoredRun | None, allowed: float) -> Standing:
    figures = Figures(stored)
    told = {name: figures.of(metric(name)) for name in FIGURES}
    if stored is ours:
        return Standing(engine, stored, _invalid(stored), figures=told)
    if ours is None:
        return Standing(engine, stored, "there is no run of ours to hold its words to", figures=told)
    require_comparable(ours.run, stored.run, ("model",))
    parity = compare_outputs(ours.measured, stored.measured, Tolerance("wer", allowed), "ours")
    reason = _invalid(stored) or _invalid(ours) or _other_words(parity)
    ratio = None if reason else _ratio(ours, stored)
    return Standing(engine, stored, reason, ratio, parity, told)


def _invalid(stored: StoredRun) -> str | None:
    verdict = stored.run.verdict
    if verdict.status is VerdictStatus.VALID:
        return None
    reasons = "; ".join(reason.message for reason in verdict.reasons)
    return f"{stored.run.run_id} is {verdict.status}: {reasons}"


def _other_words(parity: Parity) -> str | None:
    return None if parity.status is ParityStatus.SAME else f"output {parity.status}: {parity.message}"


def _ratio(ours: StoredRun, its: StoredRun) -> Measured | None:
    found = compare_runs(ours, its, [metric("latency.p50")], subjects=("model",))
    overall = next((effect.change for effect in found.effects if effect.scope == ALL), None)
    unbounded = isinstance(overall, Estimate) and not math.isfinite(overall.high)  # of one process
    return None if unbounded else overall


def disturbed(found: Sequence[Standing]) -> list[str]:
    """What else ran while they were measured, of whichever engine."""
    cpu = [process.cpu for each in found if each.stored for process in each.stored.run.processes]
    return list(disturbances(cpu))
