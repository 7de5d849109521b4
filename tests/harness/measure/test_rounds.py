"""Figures of which each process has one: chunks of live streams, pauses, counts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import UsageError
from harness.measure.contrast import Bounds
from harness.measure.effects import effects
from harness.measure.metrics import metric
from harness.measure.rounds import figures, ratio
from harness.measure.stats import Estimate, TooSmall
from harness.record import GcPauses, StoredRun
from tests.harness.runs import Recipe, make_run


def with_chunks(stored: StoredRun, latencies_s: list[float]) -> StoredRun:
    """A run whose process ``i`` acknowledged 99 chunks at once and the last of 100 after ``latencies_s[i]``;
    one more was lost."""
    for process, latency_s in enumerate(latencies_s):
        due = [float(n) for n in range(101)]
        acked = [0.001 + s for s in due[:99]] + [due[99] + latency_s, 0.0]
        pd.DataFrame({"scheduled_s": due, "acked_s": acked}).to_parquet(
            stored.folder / f"chunks-{process}.parquet"
        )
    return stored


def run(folder: Path, name: str, processes: int = 3) -> StoredRun:
    return make_run(folder, Recipe(name, processes=processes, requests=12))


def test_chunks_have_percentiles_of_their_own(tmp_path: Path) -> None:
    stored = with_chunks(run(tmp_path, "a"), [0.2, 0.3, 0.25])
    assert figures(stored, "chunk.p99") == pytest.approx([0.001] * 3)
    a, b = (with_chunks(run(tmp_path, name), [0.2]) for name in "bc")
    assert figures(a, "chunk.p50") == pytest.approx([0.001])
    (change,) = effects(a, b, [metric("chunk.p50")])
    assert (change.scope, change.change) == ("all", TooSmall(1, 3))


def test_a_run_without_streams_has_none(tmp_path: Path) -> None:
    a, b = run(tmp_path, "a"), run(tmp_path, "b")
    assert figures(a, "chunk.p99") == []
    assert effects(a, b, [metric("chunk.p99"), metric("gc.longest"), metric("evidence.ipc.copies")]) == []


def test_the_longest_pause_is_compared_within_rounds(tmp_path: Path) -> None:
    def paused(stored: StoredRun, longest_s: list[float]) -> StoredRun:
        found = zip(stored.run.processes, longest_s, strict=True)
        processes = tuple(replace(p, gc=GcPauses(9, s, s)) for p, s in found)
        return replace(stored, run=replace(stored.run, processes=processes))

    a, b = paused(run(tmp_path, "a"), [0.2, 0.4, 0.1]), paused(run(tmp_path, "b"), [0.02, 0.041, 0.0099])
    (change,) = effects(a, b, [metric("gc.longest")])
    assert isinstance(change.change, Estimate)
    assert 0.09 < change.change.low < 0.1 < change.change.high < 0.11  # though the rounds differ fourfold


def test_counts_need_no_second_process(tmp_path: Path) -> None:
    def copied(stored: StoredRun, count: int) -> StoredRun:
        processes = tuple(replace(p, evidence={"ipc": {"copied": count}}) for p in stored.run.processes)
        return replace(stored, run=replace(stored.run, processes=processes))

    a, b = copied(run(tmp_path, "a", 1), 4000), copied(run(tmp_path, "b", 1), 0)
    (change,) = effects(a, b, [metric("evidence.ipc.copied")])
    assert change.change == Estimate(0.0, 0.0, 0.0, 1, 1)
    assert effects(b, a, [metric("evidence.ipc.copied")]) == []  # a ratio to nothing is none


def test_a_process_that_never_paused_widens_the_interval() -> None:
    found = ratio([0.2, 0.2, 0.2], [0.0, 0.02, 0.01])
    assert isinstance(found, Bounds)
    assert (found.low, found.high) == (-math.inf, pytest.approx(math.log(0.1)))
    assert ratio([0.2, 0.2], [0.1, 0.1]) == TooSmall(2, 3)


@pytest.mark.parametrize("name", ["chunk.p00", "chunk", "gc.shortest"])
def test_an_unknown_figure_is_refused_with_the_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"chunk\.pNN, gc\.longest, evidence\.PATH"):
        metric(name)
