"""The folder of one run: ``run.json``, ``samples.parquet`` and, until it ends, the journals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.files import explained, open_regular, write_atomically, write_text
from harness.record.journal import JOURNAL_PATTERN, Journal, JournalContent, journal_path, read_journal
from harness.record.samples import frame_of, read_table, table_of
from harness.record.schema import (
    ProcessRecord,
    Reason,
    Run,
    Status,
    Verdict,
    VerdictStatus,
    run_from_json,
    run_to_json,
)

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.parquet"


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies on disk: its record and one row of ``samples`` per request."""

    run: Run
    samples: pd.DataFrame
    folder: Path

    @property
    def measured(self) -> pd.DataFrame:
        """Requests that were served while measuring: no warm-up, no failures."""
        rows = self.samples
        return rows[(rows["phase"] == "measured") & rows["error"].isna()]

    @property
    def failed(self) -> pd.DataFrame:
        rows = self.samples
        return rows[(rows["phase"] == "measured") & rows["error"].notna()]


class RunWriter:
    """Owns the folder of a run while it is measured.

    ``open`` leaves a ``run.json`` that says "running"; the measuring processes write journals;
    ``finish`` merges them. Whatever happens in between, the folder reads as INCOMPLETE.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self.run = run

    @classmethod
    def open(cls, results: Path, run: Run) -> RunWriter:
        """Create ``results/<run_id>``. Raises ``UsageError`` where it cannot be written."""
        folder = results / run.run_id
        with explained(results):
            folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, replace(run, status=Status.RUNNING))
        return cls(folder, run)

    def journal(self, process: ProcessRecord) -> Journal:
        return Journal(self.folder, process)

    def finish(self, run: Run) -> StoredRun:
        """Merge the journals, write the final ``run``, then drop the journals.

        The samples are safe before the record calls itself finished, and the record before a
        journal goes: a crash in between repeats work but loses none. ``run.processes`` is filled
        from the journals unless the caller has set it.
        """
        merged = self.merge()
        final = run if run.processes else replace(run, processes=merged.processes)
        write_run(self.folder, final)
        for path in _journals(self.folder):
            path.unlink()
        return StoredRun(final, merged.samples, self.folder)

    def merge(self) -> Merged:
        """Journals to ``samples.parquet``; the journals stay."""
        contents = _read_journals(self.folder)
        table = table_of(row for content in contents for row in content.rows)
        write_samples(self.folder, table)
        return Merged(tuple(content.process for content in contents), frame_of(table))


@dataclass(frozen=True)
class Merged:
    """What the journals held, in the order of their processes."""

    processes: tuple[ProcessRecord, ...]
    samples: pd.DataFrame


def write_run(folder: Path, run: Run) -> None:
    """Write ``run.json`` atomically."""
    text = json.dumps(run_to_json(run), indent=1, allow_nan=False) + "\n"
    write_text(folder / RUN_FILE, text)


def write_samples(folder: Path, table: pa.Table) -> None:
    """Write ``samples.parquet`` atomically."""
    write_atomically(folder / SAMPLES_FILE, lambda file: pq.write_table(table, file, compression="zstd"))


def read_run(folder: Path) -> StoredRun:
    """The run in ``folder``; one that never finished is INCOMPLETE, with what it measured.

    Raises ``UsageError`` naming the file for a folder that is no run, a broken file or a schema
    version that this harness does not know.
    """
    folder = Path(folder)
    run = run_from_json(_read_json(folder / RUN_FILE), str(folder / RUN_FILE))
    if run.status is Status.RUNNING:
        return _read_unfinished(folder, run)
    samples = folder / SAMPLES_FILE
    if not samples.is_file():
        raise UsageError(f"{samples}: is missing, but the run is {run.status}; restore it or measure again")
    return StoredRun(run, frame_of(read_table(samples)), folder)


def rows_of(folder: Path, process: int) -> list[dict[str, Any]]:
    """The rows of one process of a run, however it ended, in JSON types."""
    journal = journal_path(folder, process)
    if journal.is_file():
        content = read_journal(journal)
        return [] if content is None else list(content.rows)
    samples = folder / SAMPLES_FILE
    rows = read_table(samples).to_pylist() if samples.is_file() else []
    return [row for row in rows if row["process"] == process]


def find_stopped(results: Path, content_hash: str) -> Path | None:
    """The newest run of the same content if it ended before its end and nobody goes on measuring it."""
    found = [(folder, run) for folder, run in _runs(results) if run.content_hash == content_hash]
    return found[-1][0] if found and _is_stopped(*found[-1]) else None


def _is_stopped(folder: Path, run: Run) -> bool:
    if run.status is not Status.RUNNING:
        return run.status in (Status.INTERRUPTED, Status.FAILED)
    pids = [content.process.pid for content in _read_journals(folder)]
    return bool(pids) and not any(map(psutil.pid_exists, pids))


def find_finished(results: Path, content_hash: str) -> Path | None:
    """The newest run of the same content that may be kept, so that a sweep can skip it: an INVALID one
    is measured again."""
    found = [folder for folder, run in _runs(results) if _is_finished(run, content_hash)]
    return found[-1] if found else None


def _is_finished(run: Run, content_hash: str) -> bool:
    quotable = run.verdict.status in (VerdictStatus.VALID, VerdictStatus.UNVERIFIED)
    return run.content_hash == content_hash and quotable and not run.profiled


def _runs(results: Path) -> Iterator[tuple[Path, Run]]:
    """Readable runs, oldest first (run ids start with the time). Unreadable ones are no match."""
    for path in sorted(results.glob(f"*/{RUN_FILE}")):
        try:
            yield path.parent, run_from_json(_read_json(path), str(path))
        except UsageError:
            continue


def _read_unfinished(folder: Path, run: Run) -> StoredRun:
    contents = _read_journals(folder)
    frame = frame_of(table_of(row for content in contents for row in content.rows))
    reason = Reason(
        "finished", f"the run was stopped before its end; {len(frame)} samples were kept. Measure again"
    )
    verdict = Verdict(VerdictStatus.INCOMPLETE, (*run.verdict.reasons, reason))
    processes = tuple(content.process for content in contents)
    return StoredRun(replace(run, verdict=verdict, processes=processes), frame, folder)


def _journals(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(JOURNAL_PATTERN))


def _read_journals(folder: Path) -> Sequence[JournalContent]:
    found = (read_journal(path) for path in _journals(folder))
    return sorted((c for c in found if c is not None), key=lambda content: content.process.index)


def _read_json(path: Path) -> Any:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; pass the folder of a run, results/<run_id>")
    if not path.is_file():
        raise UsageError(f"{path}: is missing; pass the folder of a run, results/<run_id>")
    try:
        with explained(path), open_regular(path) as file:
            return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({error}); restore the file or measure again") from error
