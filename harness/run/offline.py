"""How far an offline run is: what an earlier one that was stopped has done, and what is told on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.measure.text import digits
from harness.record import MEASURED, rows_of
from harness.run.messages import Reporter
from harness.spans import now_ns

_TIMES = ("scheduled_s", "dispatched_s", "started_s", "finished_s")


def done_before(stopped: str | None, process: int) -> list[dict[str, Any]]:
    """The rows of the recordings that the same process of a stopped run has answered. Their times end at 0,
    where this process's begin: the time of both parts counts."""
    rows = rows_of(Path(stopped), process) if stopped is not None else ()
    answered = [row for row in rows if row["phase"] == MEASURED and row["error"] is None]
    ended_s = max((row["finished_s"] for row in answered), default=0.0)
    return [{**row, **dict(_moved(row, -ended_s))} for row in answered]


def _moved(row: Mapping[str, Any], by_s: float) -> Iterator[tuple[str, float]]:
    return ((name, row[name] + by_s) for name in _TIMES)


class Tally:
    """Counts recordings and their audio, and tells both with the RTFx so far; for any thread."""

    def __init__(self, reporter: Reporter, done: int) -> None:
        self._reporter = reporter
        self._done = done
        self._audio_s = 0.0
        self._began_ns = now_ns()
        self._turn = threading.Lock()

    def add(self, audio_s: float) -> None:
        with self._turn:
            self._done += 1
            self._audio_s += audio_s
            rtfx = self._audio_s / ((now_ns() - self._began_ns) * 1e-9)
            self._reporter.progress(self._done, f"{digits(rtfx)} × real time")
