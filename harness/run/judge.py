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
from harness.measure.stats import nearest_rank
from harness.measure.steadiness import first_meeting_warning
from harness.measure.summary import summarize, summary_to_json
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

#: A variant that finds that it did not do its work says so under this key of its evidence.
NOT_ENGAGED = "not_engaged"


def judge(run: Run, samples: pd.DataFrame, folder: Path, warnings: Sequence[str]) -> Run:
    """``run`` with its evidence, memory, parity and verdict filled in from what the processes left.

    ``folder`` is the run's: the reference's journal lies in its ``reference`` folder.
    """
    measured = samples[samples["phase"] == MEASURED]
    served = measured[measured["error"].isna()]
    parity = _parity(run, served, folder)
    reasons = [
        *_failures(measured, served),
        *_ledger(run, served),
        *_evidence(run.processes),
        *_weights(run),
        *_outputs(parity),
        *_lag(run, measured),
        *_backlog(run, served),
        *_streams(run.processes),
    ]
    if run.status is not Status.COMPLETE:
        reasons.append(
            Reason("finished", f"the run was {run.status}; {len(measured)} measured samples were kept")
        )
    judged = replace(
        run,
        parity=parity,
        verdict=Verdict(_status(run, reasons), tuple(reasons)),
        evidence=_merged(run.processes),
        memory=combine([p.memory for p in run.processes if p.memory is not None]),
    )
    figures = summary_to_json(summarize(StoredRun(judged, samples, folder)))
    counts = {"requests": len(measured), "failed": len(measured) - len(served)}
    warned = [*warnings, *_unsteady(run, served)]
    return replace(judged, summary={"warnings": warned, **counts, "figures": figures})


def _unsteady(run: Run, served: pd.DataFrame) -> Iterator[str]:
    """A stream meets its recording once; in an open loop the first requests also meet the longest queue."""
    if run.mode is Mode.CLOSED and (warning := first_meeting_warning(served)) is not None:
        yield warning


def _status(run: Run, reasons: Sequence[Reason]) -> VerdictStatus:
    if run.status is not Status.COMPLETE:
        return VerdictStatus.INCOMPLETE
    return VerdictStatus.INVALID if reasons else VerdictStatus.VALID


def _failures(measured: pd.DataFrame, served: pd.DataFrame) -> Iterator[Reason]:
    if len(measured) and not len(served):
        first = measured["error"].iloc[0]
        yield Reason("requests", f"every request failed, the first with: {first}")


def _ledger(run: Run, served: pd.DataFrame) -> Iterator[Reason]:
    """A live stream is not served in one piece, so it has no ledger; its chunks have latencies. A
    profiler works between the spans, and its run is no measurement anyway."""
    if run.mode is Mode.STREAMING or run.profiled:
        return
    if len(served) and (reason := ledger_reason(served)) is not None:
        yield reason


def _evidence(processes: Sequence[ProcessRecord]) -> Iterator[Reason]:
    for process in processes:
        if not process.finished:
            continue
        for part in ("topology", "engine"):
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
    if parity is not None and parity.status is ParityStatus.DIFFERENT:
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


def _parity(run: Run, served: pd.DataFrame, folder: Path) -> Parity | None:
    """Against the reference process where there was one. The reference itself is held to its first
    process: the same tokens for the same recording, every time."""
    if run.mode is Mode.STREAMING:
        return _stream_parity(run.processes)
    if served.empty:
        return None
    journal = folder / "reference" / "process-0.jsonl"
    if journal.is_file():
        content = read_journal(journal)
        if content is None:
            return None
        rows = samples_frame_of(content.rows)
        answered = rows[rows["error"].isna() & rows["request_id"].isin(set(served["request_id"]))]
        expected = answered.drop_duplicates("request_id")
        if not served["tokens"].any():  # a client behind a socket sees text alone
            expected = expected.assign(token_ids=[[] for _ in range(len(expected))])
        return compare_outputs(expected, served, run.tolerance, "the eager reference")
    first = served.drop_duplicates("request_id")
    return compare_outputs(first, served, Tolerance(), "its own first answers")


def _stream_parity(processes: Sequence[ProcessRecord]) -> Parity | None:
    """Streams are held to the text of the same recording, given to an engine in one piece."""
    found = [p.evidence["streaming"] for p in processes if "streaming" in p.evidence]
    if not found:
        return None
    compared = sum(figures["connections"] for figures in found)
    wrong = sum(figures["wrong_texts"] for figures in found)
    status = ParityStatus.DIFFERENT if wrong else ParityStatus.SAME
    message = f"{compared - wrong} of {compared} streams have the text of their recording in one piece"
    return Parity(status, "the recording in one piece", Tolerance(), compared, wrong, message)


def _merged(processes: Sequence[ProcessRecord]) -> dict[str, Any]:
    """The evidence of the first process; the others' stays with them."""
    return dict(processes[0].evidence) if processes else {}
