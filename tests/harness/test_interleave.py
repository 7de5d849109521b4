"""Variants measured side by side, through the command: whose turn it is, and how it ends."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.config.load import compose_run
from harness.errors import ExitCode, HarnessError
from harness.interleave import Budget, interleaved, main
from harness.record import StoredRun, read_run
from harness.run.session import RunSession, measure_side_by_side

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
    return named_runs(done)


def named_runs(done: subprocess.CompletedProcess[str]) -> list[StoredRun]:
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
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    alone = compose_run([*FAST, *places, "runner.turn_requests=5", "runner.processes=2"])
    assert runs[0].run.content_hash == RunSession(alone, []).content_hash  # of as many processes


@pytest.mark.slow
def test_several_clients_of_a_closed_loop_keep_to_their_turns(tmp_path: Path) -> None:
    done = interleave(tmp_path, "--rounds", "1", "runner.turn_requests=4", "workload.clients=3", "io=epoll")
    runs = measured_runs(done)
    for run in runs:  # one of each client, whatever the turns, and the warm-up's
        assert run.run.processes[0].evidence["io"]["connections"] == 4
    intervals = served(runs, 0)
    owners = [run for _, _, run in intervals]
    assert [len(list(turn)) for _, turn in itertools.groupby(owners)] == [4] * 6
    for (_, end, run), (start, _, following) in itertools.pairwise(intervals):
        assert run == following or end <= start


def test_one_that_dies_leaves_the_others_their_turns(tmp_path: Path) -> None:
    """The kernel ends whom it likes when memory runs out."""
    of = [f"--of=runner.label={label}" for label in "abc"]
    slow = ("workload.requests=40", "model.options.per_request_s=0.02", "runner.turn_requests=2")
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    command = [sys.executable, "-m", "harness.interleave", *of, "--rounds=1", *FAST, *slow, *places]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("eager · c measured 1: measuring"):
                break
        children = psutil.Process(process.pid).children()
        order = sorted(child.pid for child in children)
        psutil.Process(order[1]).kill()
        said, errors = process.communicate(timeout=300)
    assert process.returncode == ExitCode.INTERNAL, said + errors
    assert "eager · b measured 1: failed, the others go on: the measured process ended" in errors
    assert "killed by SIGKILL" in errors
    (names,) = re.findall(r"^compare .*harness.compare (.+)$", said, re.MULTILINE)
    runs = [read_run(Path(name)) for name in names.split()]
    assert [len(run.measured) for run in runs] == [40, 40]
    intervals = served(runs, 0)
    assert all(end <= start for (_, end, _), (start, _, _) in itertools.pairwise(intervals))
    assert turns(intervals)[-6:] == [(0, 2), (1, 2)] * 3


@pytest.mark.slow
def test_whole_processes_take_turns_where_they_are_told_to(tmp_path: Path) -> None:
    runs = measured_runs(interleave(tmp_path, "--rounds", "2", "runner.turn_requests=0"))
    assert turns(served(runs, 0)) == [(0, 12), (1, 12)]
    assert turns(served(runs, 1)) == [(1, 12), (0, 12)]
    commands = {stored.run.provenance.command[:4] for stored in runs}
    assert commands == {("python", "-m", "harness.interleave", "--of=runner.label=a")}


@pytest.mark.slow
def test_unequal_numbers_of_requests_take_turns_as_a_whole(tmp_path: Path) -> None:
    """The one that ended early would leave the others to work at the same time."""
    shorter = ("--of", "workload.requests=6 runner.label=c")
    runs = measured_runs(interleave(tmp_path, "--rounds", "1", "runner.turn_requests=2", *shorter))
    assert turns(served(runs, 0)) == [(0, 12), (1, 12), (2, 6)]


@pytest.mark.parametrize("turn_requests", [5, 0])
def test_one_that_fails_leaves_the_others_their_turns_and_says_why(
    tmp_path: Path, turn_requests: int
) -> None:
    of = ("runner.label=a", nowhere("levitate"), "runner.label=b")
    done = interleave(tmp_path, "--rounds", "2", f"runner.turn_requests={turn_requests}", of=of)
    assert done.returncode == ExitCode.USAGE, done.stdout + done.stderr
    assert done.stderr.count("kept 0 samples of the failed run") == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "levitate" in done.stderr.splitlines()[-1]
    runs = named_runs(done)
    for block, (first, second) in enumerate([(0, 1), (1, 0)]):
        intervals = served(runs, block)
        assert all(end <= start for (_, end, _), (start, _, _) in itertools.pairwise(intervals))
        least = [(first, 5), (second, 5), (first, 5)] if turn_requests else [(first, 12), (second, 12)]
        assert turns(intervals)[: len(least)] == least


def nowhere(name: str) -> str:
    """Overrides that are refused in the process, where no configuration can know."""
    return f"variant=epoll io.options.path=/dev/null/{name}/serve.sock"


def test_where_all_fail_it_ends(tmp_path: Path) -> None:
    of = (nowhere("levitate"), nowhere("teleport"))
    done = interleave(tmp_path, "--rounds", "3", of=of)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("kept 0 samples of the failed run") == 2
    assert "compare" not in done.stdout


def test_a_terminated_command_keeps_what_was_measured(tmp_path: Path) -> None:
    """A supervisor's SIGTERM (a CI job that is cancelled, ``timeout``) and not Ctrl-C alone."""
    with long_one(tmp_path) as command:
        command.terminate()
        _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert said.count("of the interrupted run") == 2
    for folder in (tmp_path / "results").iterdir():
        assert len(read_run(folder).samples) > 0


def test_processes_end_with_a_command_that_was_killed(tmp_path: Path) -> None:
    """They would measure on for hours, beside whatever is measured next."""
    with long_one(tmp_path) as command:
        workers = psutil.Process(command.pid).children(recursive=True)
        command.kill()
        _, living = psutil.wait_procs(workers, timeout=30)
    assert len(workers) >= 2
    assert living == []


@contextmanager
def long_one(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Two variants in the midst of minutes of measuring."""
    of = [f"--of=runner.label={label}" for label in "ab"]
    slow = ("workload.requests=5000", "model.options.per_request_s=0.02", "runner.turn_requests=1")
    places = (f"runner.results_dir={folder / 'results'}", f"runner.cache_dir={folder / 'cache'}")
    command = [sys.executable, "-m", "harness.interleave", *of, "--rounds=1", *FAST, *slow, *places]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        stderr = process.stderr
        assert stderr is not None
        for line in stderr:
            if line.startswith("eager · b measured 1: measuring"):
                break
        time.sleep(1.0)
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_eager_variant_among_them_is_the_reference(tmp_path: Path) -> None:
    """No process is spent on transcribing what it transcribes anyway."""
    quick = ("workload.requests=12", "runner.warmup.max_passes=2", "runner.threads=1")
    done = interleave(tmp_path, "--rounds", "1", of=("variant=eager", "variant=collapsed"), common=quick)
    _, collapsed = measured_runs(done)
    assert collapsed.run.parity is not None
    assert collapsed.run.parity.reference == "the eager reference"
    assert collapsed.run.parity.compared == 12
    assert "reference 1:" not in done.stderr


def test_what_takes_long_to_import_is_imported_before_the_first_turn(tmp_path: Path) -> None:
    """NeMo: a second process would otherwise begin with it when the first has warmed up."""
    quick = ("workload.requests=5", "runner.warmup.max_passes=2", "runner.threads=1")
    of = ("runner.label=a", "runner.label=b")
    done = interleave(tmp_path, "--rounds", "1", of=of, common=quick)
    assert len(measured_runs(done)) == 2
    said = [line.split(" (")[0] for line in done.stderr.splitlines()]
    building = said.index("eager · a measured 1: building parakeet_tiny")
    assert said.index("eager · b measured 1: importing") < building


def test_the_reference_is_made_anew_where_the_eager_variant_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_eager(sessions: Sequence[RunSession], block: int) -> list[tuple[RunSession, HarnessError]]:
        eager = next(session for session in sessions if session.config.variant == "eager")
        others = [session for session in sessions if session is not eager]
        return [(eager, HarnessError("out of memory")), *measure_side_by_side(others, block)]

    monkeypatch.setattr("harness.interleave.measure_side_by_side", without_eager)
    places = [f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}"]
    variants = [["variant=eager", *FAST, *places], ["variant=collapsed", *FAST, *places]]
    (collapsed,), (error,) = interleaved(variants, Budget(rounds=1))
    assert str(error) == "out of memory"
    assert collapsed.run.parity is not None
    assert collapsed.run.parity.compared == 12


RULE = "rules:\n  - {metric: span.encoder.p50, scope: all, limit: 0.5, required: true}\n"
STATED = ("model.options.per_request_s=0.02", "workload.requests=5")
"""An engine of stated cost, long against what a busy machine adds."""


def test_rounds_are_added_until_it_is_decided_and_what_is_open_is_said(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(RULE)
    until = ("--until", "0.3", "--rounds", "12", "--thresholds", str(tmp_path / "limits.yaml"))
    done = interleave(tmp_path, *until, *STATED)
    runs = measured_runs(done)
    rounds = len(runs[0].run.processes)
    assert rounds in (3, 6, 12)
    assert len(runs[1].run.processes) == rounds
    said = [line for line in done.stderr.splitlines() if line.startswith("after ")]
    assert len(said) == {3: 1, 6: 2, 12: 3}[rounds]
    assert said[-1].startswith(f"after {rounds} rounds: ")
    assert rounds == 12 or "open" not in said[-1]


def test_no_round_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    done = interleave(tmp_path, "--rounds", "50", "--minutes", "0.01", *STATED)
    assert [len(stored.run.processes) for stored in measured_runs(done)] == [1, 1]


def test_quoted_paths_are_one_override(tmp_path: Path) -> None:
    spaced = tmp_path / "two words"
    of = [f"runner.label={label} 'runner.results_dir={spaced}'" for label in "ab"]
    places = [f"runner.cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "harness.interleave", *(f"--of={overrides}" for overrides in of)]
    options = ["--rounds", "1", *FAST, *STATED, *places]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(list(spaced.iterdir())) == 2


def test_an_unclosed_quote_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--of", "runner.label='a", "--of", "runner.label=b"]) == ExitCode.USAGE
    assert "runner.label='a" in capsys.readouterr().err
