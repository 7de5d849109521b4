"""Two runs at once on one machine know of each other."""

from __future__ import annotations

import os
import subprocess
import sys

from harness.run.neighbours import Neighbours

OTHER = """
from harness.run.neighbours import Neighbours
with Neighbours():
    print("here", flush=True)
    input()
"""


def test_who_comes_later_is_seen_and_sees() -> None:
    with Neighbours() as first:
        before = set(first.seen())
        later = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert later.stdout is not None and later.stdout.readline() == b"here\n"
        assert later.pid in set(first.seen()) - before
        later.communicate(b"\n")
        assert later.pid in first.seen()  # it was there, for a while
        assert f"{later.pid}" in first.warnings()[0] and "n_jobs=1" in first.warnings()[0]


def test_who_was_there_before_is_seen() -> None:
    earlier = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert earlier.stdout is not None and earlier.stdout.readline() == b"here\n"
    with Neighbours() as second:
        assert earlier.pid in second.seen()
    earlier.communicate(b"\n")
    with Neighbours() as third:
        assert earlier.pid not in third.seen()


def test_what_this_process_measures_itself_is_no_neighbour() -> None:
    with Neighbours(), Neighbours() as inner:
        assert os.getpid() not in inner.seen()
