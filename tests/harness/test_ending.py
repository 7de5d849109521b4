"""Whoever is ended, by whatever signal and whenever: nothing is left, and what was measured is kept."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.protocols.folders import SOCKETS, remove_abandoned
from harness.record import Status, StoredRun, read_run
from tests import shared_memory

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OWNERS = ("launcher", "measured", "server")
"""Who has folders to remove, or has those end who have."""
MARK = "ENDING_TEST"
STREAMS = 4
REQUESTS = 100
COMMON = (
    "model=fixed_cost",
    "frontend=whole",
    "model.options.per_request_s=0.02",
    "runner.processes=1",
    "runner.reference=false",
    "runner.warmup.min_passes=1",
    "runner.warmup.max_passes=1",
)
RECORDINGS = (f"workload.requests={REQUESTS}",)
WORKERS = ("topology=collapsed", "ipc=shared_memory")
LIVE = ("workload=streaming", f"workload.requests={STREAMS}", "workload.options.duration_s=2")


@dataclass(frozen=True)
class Configuration:
    """What runs, and whom there is to end in it (the names that processes carry)."""

    overrides: tuple[str, ...]
    roles: tuple[str, ...]

    @property
    def interleaved(self) -> bool:
        return self.overrides[:1] == ("interleave",)

    @property
    def streams(self) -> bool:
        return LIVE[0] in self.overrides


CONFIGURATIONS = {
    "inprocess": Configuration(RECORDINGS, ("launcher", "measured")),
    "collapsed": Configuration(
        (*RECORDINGS, "variant=collapsed"), ("launcher", "measured", "frontend0", "inference")
    ),
    "epoll": Configuration(
        (*RECORDINGS, "variant=epoll", *WORKERS),
        ("launcher", "measured", "server", "frontend0", "inference"),
    ),
    "threads": Configuration((*RECORDINGS, "variant=threads"), ("launcher", "measured", "server")),
    "streaming": Configuration(
        (*LIVE, "variant=epoll", *WORKERS),
        ("launcher", "measured", "server", "frontend0", "inference", "client 0"),
    ),
    "interleave": Configuration(("interleave", *RECORDINGS), ("launcher", "measured")),
}


@dataclass(frozen=True)
class Case:
    """``number`` goes to ``role``, ``delay_s`` after it exists (``measuring``: after the first is measured);
    ``group``: a terminal's Ctrl-C, to everybody, and by somebody impatient."""

    configuration: str
    role: str
    number: signal.Signals
    delay_s: float
    measuring: bool
    group: bool = False


def cases(count: int, seed: int) -> list[Case]:
    """Every role of every configuration with every signal, again and again, at random moments."""
    rng = random.Random(seed)
    kinds = [
        (name, role, number)
        for name, configuration in CONFIGURATIONS.items()
        for role in configuration.roles
        for number in SIGNALS
    ]
    rng.shuffle(kinds)
    return [
        Case(
            *kind,
            delay_s=rng.uniform(0.0, 2.5),
            measuring=rng.random() < 0.6,
            group=kind[1] == "launcher" and kind[2] is signal.SIGINT and rng.random() < 0.7,
        )
        for kind in itertools.islice(itertools.cycle(kinds), count)
    ]


# ---------------------------------------------------------------- one run


class Command:
    """A command with a temporary folder of its own, and its processes wherever they have gone."""

    def __init__(self, configuration: Configuration, cache: Path, folder: Path) -> None:
        self.results = folder / "results"
        self.temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # a socket's path is to be short
        self._mark = secrets.token_hex(8)
        self._said = folder / "stderr"
        places = (f"runner.results_dir={self.results}", f"runner.cache_dir={cache}")
        module = ["harness", *COMMON, *configuration.overrides, *places]
        if configuration.interleaved:
            of = ("--of=runner.label=a", "--of=runner.label=b", "--rounds=1")
            module = ["harness.interleave", *of, *COMMON, *configuration.overrides[1:], *places]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                preexec_fn=heed_signals,
                env={**os.environ, MARK: self._mark, "TMPDIR": str(self.temporary)},
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def processes(self) -> dict[int, str]:
        """Number and name of every living process that descends from the command."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    launcher = process.pid == self.process.pid
                    words = process.cmdline() or ["beginning, or ending"]
                    found[process.pid] = "launcher" if launcher else words[-1]
        return found

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def pid_of(self, role: str) -> int | None:
        return next((pid for pid, name in self.processes().items() if name == role), None)

    def runs(self) -> list[StoredRun]:
        return [read_run(path.parent) for path in sorted(self.results.glob("*/run.json"))]

    def journaled(self) -> int:
        journals = self.results.glob("*/process-*.jsonl")
        return sum(path.read_bytes().count(b'"phase":"measured"') for path in journals)


def heed_signals() -> None:
    """Whatever started the tests may ignore them, and children inherit that."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def command(name: str, cache: Path, folder: Path) -> Iterator[Command]:
    running = Command(CONFIGURATIONS[name], cache, folder)
    try:
        yield running
    finally:
        for pid in running.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.process.wait()
        subprocess.run(["rm", "-r", str(running.temporary)], check=False)


def measuring(running: Command, configuration: Configuration) -> bool:
    return "live streams" in running.said if configuration.streams else running.journaled() > 3


def faults(case: Case, cache: Path, folder: Path) -> list[str]:
    """What was left behind or lost when ``case`` was carried out."""
    configuration = CONFIGURATIONS[case.configuration]
    shared = shared_memory.names()
    with command(case.configuration, cache, folder) as running:
        over = running.process.poll
        if case.measuring:
            running.wait_for(lambda: measuring(running, configuration) or over() is not None, 120)
        running.wait_for(lambda: running.pid_of(case.role) is not None or over() is not None, 120)
        time.sleep(case.delay_s)
        pid, underway, before = running.pid_of(case.role), running.said, running.journaled()
        if pid is not None:
            strike(case, running, pid)
        if not running.wait_for(lambda: over() is not None, 120):
            return [f"the command did not end: {running.processes()}"]
        found = left_behind(case, running, shared)
        lost = before - sum((run.samples["phase"] == "measured").sum() for run in running.runs())
        if lost > 0:
            found.append(f"{lost} rows were lost")
        if pid is not None:
            found += wrong_record(case, running, underway)
        return found


def strike(case: Case, running: Command, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, case.number)
        if case.group:
            for _ in range(3):
                time.sleep(0.05)
                os.killpg(running.process.pid, case.number)


def left_behind(case: Case, running: Command, shared: set[str]) -> list[str]:
    found = []
    if not running.wait_for(lambda: not running.processes(), 30):
        found.append(f"still running: {running.processes()}")
    if case.number is signal.SIGKILL and case.role in OWNERS:
        remove_abandoned(SOCKETS, running.temporary)  # as the next start does
    if names := [path.name for path in running.temporary.iterdir()]:
        found.append(f"in the temporary folder: {names}")
    if left := shared_memory.left_since(shared):
        found.append(f"in shared memory: {left}")
    return found


def wrong_record(case: Case, running: Command, underway: str) -> list[str]:
    """What the records say, against what has happened; ``underway``: what was said until then."""
    configuration = CONFIGURATIONS[case.configuration]
    runs, found = running.runs(), []
    if case.role == "launcher":
        expected = Status.RUNNING if case.number is signal.SIGKILL else Status.INTERRUPTED
        statuses = {run.run.status for run in runs}
        if not statuses <= {expected, Status.COMPLETE}:
            found.append(f"the record says {statuses}")
        if Status.INTERRUPTED in statuses and running.process.returncode != 130:
            found.append(f"exit code {running.process.returncode}")
        if (
            configuration.streams
            and "live streams" in underway
            and any(len(r.samples) < STREAMS for r in runs)
        ):
            found.append(f"kept {[len(run.samples) for run in runs]} rows of {STREAMS} streams")
    elif case.number in (signal.SIGINT, signal.SIGHUP) and any(
        run.run.status is not Status.COMPLETE for run in runs
    ):
        found.append(f"{case.role} heeded a terminal's signal: {[run.run.status for run in runs]}")
    elif configuration.interleaved and not any(complete(run) for run in runs):
        found.append(f"the other variant did not go on: {[(r.run.status, len(r.measured)) for r in runs]}")
    return found


def complete(run: StoredRun) -> bool:
    return run.run.status is Status.COMPLETE and len(run.measured) == REQUESTS


# ---------------------------------------------------------------- tests


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with command("inprocess", folder, tmp_path_factory.mktemp("first")) as running:
        assert running.process.wait(300) in (0, 4), running.said
    return folder


QUICK = (
    Case("epoll", "launcher", signal.SIGINT, 0.3, measuring=True, group=True),
    Case("epoll", "measured", signal.SIGKILL, 0.3, measuring=True),
    Case("streaming", "launcher", signal.SIGKILL, 0.5, measuring=True),
    Case("streaming", "client 0", signal.SIGKILL, 0.0, measuring=False),
    Case("interleave", "measured", signal.SIGKILL, 0.3, measuring=True),
    Case("inprocess", "launcher", signal.SIGHUP, 0.3, measuring=True),
)


def named(case: Case) -> str:
    return f"{case.configuration}-{case.role}-{case.number.name}"


@pytest.mark.parametrize("case", QUICK, ids=named)
def test_nothing_is_left_and_nothing_is_lost(case: Case, cache: Path, tmp_path: Path) -> None:
    assert faults(case, cache, tmp_path) == []


@pytest.mark.slow
def test_of_two_hundred_endings_none_leaves_or_loses_anything(cache: Path, tmp_path: Path) -> None:
    found: dict[str, Sequence[str]] = {}
    for number, case in enumerate(cases(200, seed=13)):
        folder = tmp_path / str(number)
        folder.mkdir()
        wrong = faults(case, cache, folder)
        print(number, case, wrong, flush=True)
        if wrong:
            found[f"{number} {case}"] = wrong
    assert found == {}
