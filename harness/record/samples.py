"""One row per request: the columns of ``samples.parquet``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.spans import SPAN_NAMES

WARMUP = "warmup"
MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds since the process's epoch on the monotonic clock.

    ``scheduled_s`` is the arrival on the absolute schedule; a closed loop has none and passes the
    time it dispatched. ``dispatched_s`` is when a client thread took the request up, ``started_s``
    and ``finished_s`` are the service's. ``spans`` sums the seconds of each span name. Requests of one
    process with the same ``batch_id`` were computed together, ``batch_size`` of them; 0 is alone.
    ``expect_failure`` is what the manifest says of the recording; ``attempts`` how often a foreign server was
    asked (``target.retries``).
    """

    process: int
    phase: str
    index: int
    request_id: str
    bucket: str
    container: str
    sample_rate: int | None
    channels: int | None
    audio_s: float
    speech_s: float
    segments: int
    scheduled_s: float
    dispatched_s: float
    started_s: float
    finished_s: float
    unaccounted_s: float
    spans: Mapping[str, float]
    text: str = ""
    reference_text: str | None = None
    token_ids: tuple[int, ...] = field(default=())
    error: str | None = None
    batch_id: int = 0
    batch_size: int = 1
    expect_failure: bool = False
    attempts: int = 1

    @property
    def latency_s(self) -> float:
        """From the scheduled arrival, so that a stall is charged to every request it delayed."""
        return self.finished_s - self.scheduled_s

    @property
    def service_s(self) -> float:
        return self.finished_s - self.started_s

    @property
    def lag_s(self) -> float:
        """The load generator's own delay."""
        return self.dispatched_s - self.scheduled_s

    @property
    def rtf(self) -> float | None:
        """Processing over audio; null for a clip without sound."""
        return self.service_s / self.audio_s if self.audio_s > 0 else None


_SCALARS = [f.name for f in fields(Sample) if f.name not in ("spans", "token_ids")]
_DERIVED = ("latency_s", "service_s", "lag_s", "rtf")
_COUNTS = ("segments", "tokens", "batch_id", "batch_size", "attempts")
_INTEGERS = ("process", "index", "sample_rate", "channels", *_COUNTS)
_STRINGS = ("phase", "request_id", "bucket", "container", "text", "reference_text", "error")
_EARLIER = {"batch_id": 0, "batch_size": 1, "expect_failure": False, "attempts": 1}
"""What rows of files mean that lack a column: before it there was no other value."""
COLUMNS = (*_SCALARS, "tokens", "token_ids", *_DERIVED, *(f"span_{name}_s" for name in SPAN_NAMES))

_COLUMN_NAMES = frozenset(COLUMNS)


def sample_row(sample: Sample) -> dict[str, Any]:
    """The sample as a flat row, in JSON types, with the derived columns; keys are ``COLUMNS``."""
    row = {name: _storable(getattr(sample, name)) for name in (*_SCALARS, *_DERIVED)}
    row["token_ids"] = list(sample.token_ids)
    row["tokens"] = len(sample.token_ids)
    for name in SPAN_NAMES:
        row[f"span_{name}_s"] = sample.spans.get(name, 0.0)
    return row


def _storable(value: Any) -> Any:
    """Half of a UTF-16 pair, which a library's message may hold, is no text to Arrow: spelled out."""
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="backslashreplace").decode()
    return value


def samples_frame(samples: Iterable[Sample]) -> pd.DataFrame:
    """The samples as ``read_run`` would return them."""
    return samples_frame_of(sample_row(sample) for sample in samples)


def unfit(row: Mapping[str, Any]) -> str | None:
    """What keeps a journal's row out of the table, in words: a value of another type than its column's."""
    for name in ("request_id", *row.keys() & _COLUMN_NAMES):
        if not (_fits(name, row[name]) or (row[name] is None and name != "request_id")):
            return f"{name} is {row[name]!r:.60}"
    return None


def _fits(column: str, value: Any) -> bool:
    if column in _STRINGS:
        return isinstance(value, str) and value == _storable(value)
    if column == "expect_failure":
        return isinstance(value, bool)
    if column == "token_ids":
        return isinstance(value, list) and all(_is_integer(token) for token in value)
    return _is_integer(value) or (column not in _INTEGERS and isinstance(value, float))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def samples_frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The same from rows of a journal."""
    return frame_of(table_of(rows))


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (of ``sample_row``) as an Arrow table; a column that a row lacks is null in it."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=_schema())


def frame_of(table: pa.Table) -> pd.DataFrame:
    """A data frame with every column of this version; those an older file lacks are null, except those
    of which it is known what they would have held."""
    for column in _schema():
        if column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    for name, value in _EARLIER.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].fill_null(value))
    frame: pd.DataFrame = table.select(list(COLUMNS)).to_pandas()
    return frame.sort_values(["process", "phase", "index"], ascending=[True, False, True], ignore_index=True)


def read_table(path: Path) -> pa.Table:
    """The file's table. Raises ``UsageError`` that names the file when it cannot be read."""
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); restore the file or measure again") from error


def _schema() -> pa.Schema:
    return pa.schema([pa.field(name, _type_of(name)) for name in COLUMNS])


def _type_of(column: str) -> pa.DataType:
    if column in _INTEGERS:
        return pa.int64()
    if column in _STRINGS:
        return pa.string()
    if column == "expect_failure":
        return pa.bool_()
    return pa.list_(pa.int64()) if column == "token_ids" else pa.float64()
