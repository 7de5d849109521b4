"""The crash-safe file of one measuring process: JSON lines, handed to the kernel one by one.

First line: the process (``ProcessRecord``). Then one line per request. Last line, if the process
came that far: the process again, with its peaks and evidence. A process that is killed loses at
most the line it was writing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import UsageError
from harness.files import explained, open_regular
from harness.record.codec import from_json, to_json
from harness.record.samples import Sample, sample_row, unfit
from harness.record.schema import ProcessRecord, process_of_devices

JOURNAL_PATTERN = "process-*.jsonl"
_HEADER = "process_record"


def journal_path(folder: Path, process: int) -> Path:
    return folder / f"process-{process}.jsonl"


class Journal:
    """Appends the samples of one process; each is in the kernel's hands when ``append`` returns.

    It survives the death of the process, not the loss of power: a sync per request would cost
    more than many requests do.
    """

    def __init__(self, folder: Path, process: ProcessRecord) -> None:
        self._folder = folder
        self._process = process
        path = journal_path(folder, process.index)
        with explained(folder):
            self._file = path.open("ab", buffering=0)
            if path.stat().st_size:
                self._file.close()
                raise UsageError(f"{path}: already holds samples; give the run a folder of its own")
        self._write({_HEADER: to_json(process)})

    def append(self, sample: Sample) -> None:
        self._write(sample_row(sample))

    def adopt(self, row: Mapping[str, Any]) -> None:
        """Append a row that another run has recorded."""
        self._write(dict(row))

    def finish(self, process: ProcessRecord) -> None:
        """Record that the process reached its end, with what it found out about itself."""
        self._write({_HEADER: to_json(replace(process, finished=True))})
        self.close()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with explained(self._folder):
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True)
class JournalContent:
    process: ProcessRecord
    rows: tuple[dict[str, Any], ...]


def read_journal(path: Path) -> JournalContent | None:
    """What the process managed to write; ``None`` where not even its first line is complete.

    An incomplete last line is what a killed process leaves and is dropped. Raises ``UsageError``
    naming file and line for anything else that is not a journal.
    """
    with explained(path), open_regular(path) as file:
        lines = file.read().split(b"\n")[:-1]
    documents = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    if not documents:
        return None
    rows = tuple(d for d in documents if _HEADER not in d)
    headers = [d[_HEADER] for d in documents if _HEADER in d]
    if not headers:
        raise UsageError(f"{path}: line 1 does not describe a process; restore or delete the file")
    process: ProcessRecord = from_json(ProcessRecord, process_of_devices(headers[-1]), f"{path}: process")
    return JournalContent(process, rows)


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: line {number} is not JSON ({error}); restore or delete the file"
        ) from error
    if not isinstance(document, dict) or not ({"request_id", _HEADER} & set(document)):
        raise UsageError(f"{path}: line {number} is no sample; restore or delete the file")
    if _HEADER not in document and (wrong := unfit(document)) is not None:
        raise UsageError(f"{path}: line {number}: {wrong}; restore or delete the file")
    return document
