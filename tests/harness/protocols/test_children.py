"""A child process ends with its parent, and its parent hears what it builds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import psutil
import pytest

from harness.errors import HarnessError, UnavailableError
from harness.protocols.children import Child, Life, teller, when_closed

HERE = "tests.harness.protocols.test_children"


def builds(steps: int, control: Connection) -> None:
    tell = teller(control)
    for step in range(steps):
        tell("graphs", step + 1, steps)
    control.send("built")


def lacks(_job: None, _control: Connection) -> None:
    raise UnavailableError("a GPU is needed")


def hangs(_job: None, control: Connection) -> None:
    """As native code does that lets no thread of Python run: the closing of the connection is not noticed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    control.send("hanging")
    time.sleep(600)


def leaves_in_order(_job: None, control: Connection) -> int:
    closed = threading.Event()
    when_closed(control, closed.set, grace_s=10.0)
    control.send(os.getppid())
    closed.wait()
    return 17


def has_a_child(target: str, control: Connection) -> None:
    grandchild = Child(f"{HERE}:{target}", None, "grandchild")
    grandchild.answer()
    control.send(grandchild.pid)
    time.sleep(600)


@contextmanager
def child(target: str, job: object = None) -> Iterator[Child]:
    running = Child(f"{HERE}:{target}", job, target)
    try:
        yield running
    finally:
        running.end(0.0)


def test_what_it_builds_is_heard_and_then_its_answer() -> None:
    heard: list[tuple[str, int, int]] = []
    with child("builds", 3) as running:
        assert running.answer(lambda *said: heard.append(said), silence_s=60) == "built"
    assert heard == [("graphs", 1, 3), ("graphs", 2, 3), ("graphs", 3, 3)]


def test_its_error_is_the_parents() -> None:
    with child("lacks") as running, pytest.raises(UnavailableError, match="a GPU is needed"):
        running.answer()


def test_a_death_is_told_with_how_it_came() -> None:
    with child("hangs") as running:
        running.answer()
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(HarnessError, match="the hangs process ended unexpectedly: killed by SIGKILL"):
            running.answer()


def test_one_that_comes_no_further_is_named_with_what_it_was_at() -> None:
    with child("hangs") as running:
        running.answer()
        with pytest.raises(
            HarnessError, match=r"came no further for 0.1 s .* raise runner.silence_timeout_s"
        ):
            running.answer(silence_s=0.1)


def test_the_same_again_is_no_sign_of_life() -> None:
    now_s = [0.0]
    life = Life(10.0, clock=lambda: now_s[0])
    for at_s, said, left_s in [
        (0, "a", 10),
        (6, "b", 10),
        (12, "b", 4),
        (15, "b", 1),
        (30, "b", 0),
        (31, "c", 10),
    ]:
        now_s[0] = float(at_s)
        life.note(said)
        assert life.left_s() == left_s


def test_one_that_is_asked_to_end_does_so_in_order() -> None:
    with child("leaves_in_order") as running:
        assert running.answer() == os.getpid()
        running.end(30.0)
        assert running.exit_code == 17


@pytest.mark.parametrize("grandchild", ["hangs", "leaves_in_order"])
def test_a_child_ends_with_a_parent_that_is_killed(grandchild: str) -> None:
    with child("has_a_child", grandchild) as running:
        victim = psutil.Process(running.answer())
        os.kill(running.pid, signal.SIGKILL)
        assert psutil.wait_procs([victim], timeout=30)[1] == []


INTERRUPTED_CLOSING = """
import os, signal
from harness.protocols.interrupts import interrupt_on, uninterrupted
interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
def all_of_them():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
try:
    with uninterrupted():
        all_of_them()
        print("closed", flush=True)
    print("never", flush=True)
except KeyboardInterrupt:
    all_of_them()
    print("ended once", flush=True)
"""


def test_closing_is_not_interrupted_and_an_interruption_comes_once() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_CLOSING], capture_output=True, text=True)
    assert (done.stdout.split("\n"), done.stderr) == (["closed", "ended once", ""], "")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """``nohup``."""
    code = (
        "import signal; from harness.protocols.interrupts import interrupt_on; "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); interrupt_on(signal.SIGHUP, signal.SIGTERM); "
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
