"""How every command speaks and ends, whatever its terminal or pipe lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.paths import conf_dir
from harness.printable import one_line, printable

ROOT = conf_dir().parent
OF_OURS_ALONE = {"harness/run/worker.py", "variants/encoder/tensorrt/build.py"}
"""Children, whose output no person reads."""

SPEAKER = """
import sys
from harness.command import command
from harness.errors import NotComparableError
def main():
    print({text!r} * {times})
    print("aside \\u2013", file=sys.stderr)
    raise NotComparableError("caf\\xe9 \\x1b[2J \\ud800 \\u2588")
sys.exit(command(main))
"""


def speak(text: str, times: int = 1, **options: object) -> subprocess.CompletedProcess[bytes]:
    program = SPEAKER.format(text=text, times=times)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", program], timeout=60, **pipes)


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_terminal_lacks_is_lost_not_the_run(encoding: str) -> None:
    done = speak("caf\xe9 \u2588\u2013", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 6, done.stderr
    assert done.stdout.decode(encoding).strip() == "caf\xe9 \u2588\u2013".encode(encoding, "replace").decode(
        encoding
    )
    lines = done.stderr.decode(encoding).splitlines()
    assert lines[-1].startswith("error: caf")
    assert r"\x1b[2J \ud800" in lines[-1]


@pytest.mark.parametrize("times", [1, 100_000])
def test_the_exit_code_is_that_of_the_work_where_the_reader_has_left(times: int) -> None:
    writing = closed_pipe()
    done = speak("line\n", times, stdout=writing)
    os.close(writing)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 2


def test_nobody_reads_the_errors_either() -> None:
    writing = closed_pipe()
    assert speak("line", stdout=writing, stderr=writing).returncode == 6
    os.close(writing)


def test_unbuffered_output_is_read_line_by_line() -> None:
    program = SPEAKER.format(text="line\n", times=1).replace("raise", "sys.stdin.read()\n    raise")
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"line\n"
        child.communicate()


def test_without_an_output_at_all_the_work_is_done() -> None:
    program = SPEAKER.format(text="line", times=1)
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, program], timeout=60
    )
    assert done.returncode == 6


@pytest.mark.parametrize(
    "words", [["harness", "--help"], ["harness", "--cfg", "job"], ["harness.gate", "--help"]]
)
def test_help_ends_quietly_when_its_reader_has_seen_enough(words: list[str]) -> None:
    writing = closed_pipe()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_command_of_the_project_ends_through_the_one_home() -> None:
    found = 0
    for folder in ("harness", "variants", "benchmarks", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            block = re.search(r'^if __name__ == "__main__":\n(.*)', path.read_text(), re.MULTILINE)
            if name not in OF_OURS_ALONE and block:
                assert block[1].strip() == "sys.exit(command(main))", name
                found += 1
    assert found >= 15
    assert Path(ROOT / "harness/__main__.py").read_text().endswith("sys.exit(command(main))\n")


def test_what_drives_a_terminal_is_spelled_out() -> None:
    driving = "a\tb\nc\r\x1b[31m\x9b\u202e\u2028\ufffe"
    assert printable(driving) == "a\tb\nc\\r\\x1b[31m\\x9b\\u202e\\u2028\\ufffe"
    harmless = "naïve – हिन्दी می\u200cخ 🙂"
    assert printable(harmless) == harmless
    assert one_line("a\n  b\x00") == "a b\\x00"
    assert str(HarnessError("no \x1b]0;title\x07")) == "no \\x1b]0;title\\x07"
