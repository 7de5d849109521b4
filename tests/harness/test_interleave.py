"""Variants measured side by side, through the command: whose turn it is, and how it ends."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.record import StoredRun, read_run

FAST = ("model=fixed_cost", "frontend=whole", "workload.requests=12", "runner.warmup.max_passes=2")


def interleave(
    folder: Path,
    *arguments: str,
    of: Sequence[str] = ("runner.label=a", "runner.label=b"),
    common: Sequence[str] = FAST,
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.interleave", *(f"--of={overrides}" for overrides in of)]
    places = (f"runner.results_dir={folder / 'results'}", f"runner.cache_dir={folder / 'cache'}")
    return subprocess.run(
        [*command, *common, *places, *arguments], capture_output=True, text=True, timeout=600
    )


def measured_runs(done: subprocess.CompletedProcess[str]) -> list[StoredRun]:
    assert done.returncode == 0, done.stdout + done.stderr
    (names,) = re.findall(r"^compare .*harness.compare (.+)$", done.stdout, re.MULTILINE)
    return [read_run(Path(name)) for name in names.split()]


def served(runs: Sequence[StoredRun], block: int) -> list[tuple[int, int, int]]:
    """(start, end, run) of every request of a block, in nanoseconds of the clock that all share."""
    intervals = []
    for number, stored in enumerate(runs):
        epoch_ns = stored.run.processes[block].epoch_ns
        rows = stored.measured[stored.measured["process"] == block]
        for start_s, end_s in zip(rows["started_s"], rows["finished_s"], strict=True):
            intervals.append((epoch_ns + round(start_s * 1e9), epoch_ns + round(end_s * 1e9), number))
    return sorted(intervals)


def turns(intervals: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """(run, requests in a row)."""
    found: list[tuple[int, int]] = []
    for _, _, run in intervals:
        if found and found[-1][0] == run:
            found[-1] = (run, found[-1][1] + 1)
        else:
            found.append((run, 1))
    return found


def test_processes_of_a_round_take_turns_of_a_few_requests(tmp_path: Path) -> None:
    done = interleave(tmp_path, "--rounds", "2", "runner.turn_requests=5")
    runs = measured_runs(done)
    for block, (first, second) in enumerate([(0, 1), (1, 0)]):
        intervals = served(runs, block)
        assert all(end <= start for (_, end, _), (start, _, _) in itertools.pairwise(intervals))
        assert turns(intervals) == [
            (first, 5), (second, 5), (first, 5), (second, 5), (first, 2), (second, 2),
        ]  # fmt: skip


def test_what_takes_long_to_import_is_imported_before_the_first_turn(tmp_path: Path) -> None:
    """The second process would otherwise start with it after the first has warmed up."""
    done = interleave(tmp_path, "--rounds", "1")
    said = done.stderr.splitlines()
    assert said.index("eager · b measured 1: importing") < said.index("eager · a measured 1: measuring")


def test_whole_processes_take_turns_where_they_are_told_to(tmp_path: Path) -> None:
    runs = measured_runs(interleave(tmp_path, "--rounds", "2", "runner.turn_requests=0"))
    assert turns(served(runs, 0)) == [(0, 12), (1, 12)]
    assert turns(served(runs, 1)) == [(1, 12), (0, 12)]


def test_unequal_numbers_of_requests_take_turns_as_a_whole(tmp_path: Path) -> None:
    """The one that ended early would leave the others to work at the same time."""
    shorter = ("--of", "workload.requests=6 runner.label=c")
    runs = measured_runs(interleave(tmp_path, "--rounds", "1", "runner.turn_requests=2", *shorter))
    assert turns(served(runs, 0)) == [(0, 12), (1, 12), (2, 6)]


def test_one_that_fails_ends_the_other_and_says_why(tmp_path: Path) -> None:
    broken = ("--of", "model.options.method=levitate")
    done = interleave(tmp_path, "--rounds", "1", *broken)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "levitate" in done.stderr
    assert done.stderr.count("of the failed run") == 3


def test_the_eager_variant_among_them_is_the_reference(tmp_path: Path) -> None:
    """No process is spent on transcribing what it transcribes anyway."""
    quick = ("workload.requests=12", "runner.warmup.max_passes=2", "runner.threads=1")
    done = interleave(tmp_path, "--rounds", "1", of=("variant=eager", "variant=collapsed"), common=quick)
    _, collapsed = measured_runs(done)
    assert collapsed.run.parity is not None
    assert collapsed.run.parity.reference == "the eager reference"
    assert collapsed.run.parity.compared == 12
    assert "reference 1:" not in done.stderr
