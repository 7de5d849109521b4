"""Whether the numbers of a run may be quoted: every rule that it breaks, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness.measure.backlog import backlog_reason
from harness.measure.ledger import ledger_reason
from harness.measure.memory import combine
from harness.measure.spelling import spelled
from harness.measure.stats import nearest_rank
from harness.measure.steadiness import first_meeting_warning
from harness.measure.summary import summarize, summary_to_json
from harness.measure.text import first_errors, names_of
from harness.measure.wer import compare_outputs
from harness.record import (
    MEASURED,
    Mode,
    Parity,
    ParityStatus,
    ProcessRecord,
    Reason,
    Run,
    Status,
    StoredRun,
    Tolerance,
    Verdict,
    VerdictStatus,
    read_journal,
    samples_frame_of,
)
from harness.run.foreign import against_transcripts
from harness.same_ground import is_foreign

#: A variant that finds that it did not do its work says so under this key of its evidence.
NOT_ENGAGED = "not_engaged"
_FAILED_REMEDY = {
    False: "mend the recordings, or mark them with expect_failure in the manifest",
    True: "the server's log may say more, and workload.clients ask it less at once",
}


def judge(run: Run, samples: pd.DataFrame, folder: Path, warnings: Sequence[str], itself: bool) -> Run:
    """``run`` with its evidence, memory, parity and verdict filled in from what the processes left.

    ``folder`` is the run's: the reference's journal lies in its ``reference`` folder. ``itself`` says
    that the run is the reference: it is held to its own first answers.
    """
    measured = samples[samples["phase"] == MEASURED]
    served = measured[measured["error"].isna()]
    reference = samples if itself else _reference(folder)
    parity = _outcome(run, served, reference, itself)
    broken = [
        *_failures(run, measured, served, reference),
        *_ledger(run, served),
        *_evidence(run),
        *_weights(run),
        *_outputs(parity),
        *_lag(run, measured),
        *_backlog(run, served),
        *_streams(run.processes),
    ]
    unverified = list(_unverified(run, reference))
    reasons = [*broken, *unverified, *_unfinished(run, measured)]
    judged = replace(
        run,
        parity=parity,
        verdict=Verdict(_status(run, broken, unverified), tuple(reasons)),
        evidence=_merged(run.processes),
        memory=combine([p.memory for p in run.processes if p.memory is not None]),
    )
    figures = summary_to_json(summarize(StoredRun(judged, samples, folder)))
    counts = {"requests": len(measured), "failed": len(measured) - len(served)}
    warned = [*warnings, *_unsteady(run, served), *_unexpected(served), *_retried(measured)]
    return replace(judged, summary={"warnings": warned, **counts, "figures": figures})


def _unsteady(run: Run, served: pd.DataFrame) -> Iterator[str]:
    """A stream meets its recording once; in an open loop the first requests also meet the longest queue."""
    if run.mode is Mode.CLOSED and (warning := first_meeting_warning(served)) is not None:
        yield warning


def _status(run: Run, broken: Sequence[Reason], unverified: Sequence[Reason]) -> VerdictStatus:
    if run.status is not Status.COMPLETE:
        return VerdictStatus.INCOMPLETE
    if broken:
        return VerdictStatus.INVALID
    return VerdictStatus.UNVERIFIED if unverified else VerdictStatus.VALID


def _unfinished(run: Run, measured: pd.DataFrame) -> Iterator[Reason]:
    if run.status is not Status.COMPLETE:
        message = f"the run was {run.status}; {len(measured)} measured samples were kept"
        yield Reason("finished", message)


def _unverified(run: Run, reference: pd.DataFrame | None) -> Iterator[Reason]:
    if is_foreign(run.config):
        if _max_wer(run) is None:
            yield Reason("reference", "nothing says how many errors its text may have; state target.max_wer")
    elif reference is None:
        yield Reason(
            "reference", "the output was not compared with the eager reference; set runner.reference=true"
        )


def _unexpected(served: pd.DataFrame) -> Iterator[str]:
    """A recording that was to be refused and is not says something about the service, or the manifest."""
    answered = served.loc[served["expect_failure"], "request_id"].unique()
    if len(answered):
        yield (
            f"{names_of(answered)} was expected to fail and was answered: see what accepts it, or take "
            "expect_failure out of the manifest"
        )


def _retried(measured: pd.DataFrame) -> Iterator[str]:
    again = int((measured["attempts"] > 1).sum())
    if again:
        yield (
            f"{again} of {len(measured)} requests were sent more than once (target.retries): their latency "
            "holds every attempt, and a failure before the last counts as none"
        )


def _failures(
    run: Run, measured: pd.DataFrame, served: pd.DataFrame, reference: pd.DataFrame | None
) -> Iterator[Reason]:
    """A failure that the reference shares is the recording's, any other the variant's. A stream that
    fails has a rule of its own."""
    if run.mode is Mode.STREAMING or measured.empty:
        return
    if served.empty:
        yield Reason("requests", f"no request was answered: {first_errors(measured)}")
        return
    failed = measured[measured["error"].notna() & ~measured["expect_failure"]]
    asked = set(failed["request_id"]) & set(() if reference is None else reference["request_id"])
    answered = asked if reference is None else asked - _refused(reference)
    own = failed[failed["request_id"].isin(answered)]
    if len(own):
        yield Reason(
            "requests",
            f"{len(own)} of {len(measured)} requests failed whose recordings the eager reference answers: "
            f"{first_errors(own)}",
        )
    else:
        yield from _too_many(run, failed, len(measured))


def _too_many(run: Run, failed: pd.DataFrame, requests: int) -> Iterator[Reason]:
    limit = float(run.config["runner"]["max_failed_share"])
    if len(failed) > limit * requests:
        yield Reason(
            "requests",
            f"{len(failed)} of {requests} requests failed (at most {limit:.0%}, runner.max_failed_share): "
            f"{first_errors(failed)}; {_FAILED_REMEDY[is_foreign(run.config)]}",
        )


def _refused(reference: pd.DataFrame) -> set[str]:
    """Recordings that the reference was given and never answered."""
    answered = reference.loc[reference["error"].isna(), "request_id"]
    return set(reference["request_id"]) - set(answered)


def _ledger(run: Run, served: pd.DataFrame) -> Iterator[Reason]:
    """A live stream is not served in one piece, so it has no ledger; its chunks have latencies. A
    profiler works between the spans, and its run is no measurement anyway."""
    if run.mode is Mode.STREAMING or run.profiled:
        return
    if len(served) and (reason := ledger_reason(served)) is not None:
        yield reason


def _evidence(run: Run) -> Iterator[Reason]:
    parts = ("target",) if is_foreign(run.config) else ("topology", "engine")
    for process in run.processes:
        if not process.finished:
            continue
        for part in parts:
            if not process.evidence.get(part):
                yield Reason(
                    "evidence", f"process {process.index}: the {part} left no evidence of what it did"
                )
        for path, why in _not_engaged(process.evidence):
            yield Reason("evidence", f"process {process.index}: {path} did not engage: {why}")


def _not_engaged(evidence: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in evidence.items():
        if key == NOT_ENGAGED and value:
            yield path, str(value)
        elif isinstance(value, Mapping):
            yield from _not_engaged(value, f"{path}.{key}".lstrip("."))


def _weights(run: Run) -> Iterator[Reason]:
    hashes = {str(model["weights_hash"]) for model in _models(run.processes) if "weights_hash" in model}
    if len(hashes) > 1:
        yield Reason("weights", f"the processes built different weights ({', '.join(sorted(hashes))})")


def _models(processes: Iterable[ProcessRecord]) -> Iterator[Mapping[str, Any]]:
    for process in processes:
        yield process.evidence.get("engine", {}).get("model", {})


def _outputs(parity: Parity | None) -> Iterator[Reason]:
    """Other answers, or answers of which it is not known whether they are the reference's."""
    if parity is not None and parity.status is not ParityStatus.SAME:
        yield Reason("parity", f"{parity.message}; its speed is withheld")


def _lag(run: Run, measured: pd.DataFrame) -> Iterator[Reason]:
    """The load generator must keep its own schedule, or it measures itself."""
    if run.mode is not Mode.OPEN or measured.empty:
        return
    budget_s = float(run.config["workload"]["lag_budget_s"])
    lag_s = nearest_rank(measured["lag_s"], 0.99)
    if lag_s > budget_s:
        yield Reason(
            "lag",
            f"the load generator was {lag_s * 1e3:.1f} ms late at p99 (budget {budget_s * 1e3:.1f} ms): "
            "lower workload.rate_per_s, or free a core for it",
        )


def _backlog(run: Run, served: pd.DataFrame) -> Iterator[Reason]:
    if run.mode is Mode.OPEN and (reason := backlog_reason(served)) is not None:
        yield reason


def _streams(processes: Sequence[ProcessRecord]) -> Iterator[Reason]:
    for process in processes:
        for why in process.evidence.get("streaming", {}).get("reasons", ()):
            yield Reason("streams", f"process {process.index}: {why}")


def _reference(folder: Path) -> pd.DataFrame | None:
    """What the eager reference answered, a row each; None where it was not asked."""
    journal = folder / "reference" / "process-0.jsonl"
    if not journal.is_file():
        return None
    content = read_journal(journal)
    return samples_frame_of(() if content is None else content.rows)


def _outcome(run: Run, served: pd.DataFrame, reference: pd.DataFrame | None, itself: bool) -> Parity | None:
    """None where there is nothing to compare, or nothing to compare it with."""
    max_wer = _max_wer(run)
    if served.empty:
        return None
    served = spelled(served, run.config)
    if max_wer is not None:
        return against_transcripts(served, max_wer)
    return None if reference is None else _parity(run, served, spelled(reference, run.config), itself)


def _max_wer(run: Run) -> float | None:
    """What a foreign server is held to; None for any other, and where it is not stated."""
    return run.config["target"]["max_wer"] if is_foreign(run.config) else None


def _parity(run: Run, served: pd.DataFrame, reference: pd.DataFrame, itself: bool) -> Parity:
    """Every answer is held to the reference's: the recording's, or in a live stream that of the same
    chunks. The reference itself has to answer the same every time."""
    if itself:
        first = served.drop_duplicates("request_id")
        return compare_outputs(first, served, Tolerance(), "its own first answers")
    if run.mode is Mode.OFFLINE:  # a part of the recordings, drawn beforehand, is held to the reference's
        served = served[served["request_id"].isin(reference["request_id"])]
    answered = reference[reference["error"].isna() & reference["request_id"].isin(served["request_id"])]
    expected = answered.drop_duplicates("request_id")
    if not served["tokens"].any():  # a client behind a socket sees text alone
        expected = expected.assign(token_ids=[[] for _ in range(len(expected))])
    parity = compare_outputs(expected, served, run.tolerance, "the eager reference")
    alone = served.loc[~served["request_id"].isin(expected["request_id"]), "request_id"].unique()
    if len(alone) and parity.status is ParityStatus.SAME:
        message = f"{len(alone)} recordings have no answer of the eager reference ({names_of(alone)})"
        return replace(parity, status=ParityStatus.UNDECIDED, message=message)
    return parity


def _merged(processes: Sequence[ProcessRecord]) -> dict[str, Any]:
    """The evidence of the first process; the others' stays with them."""
    return dict(processes[0].evidence) if processes else {}
