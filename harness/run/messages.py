"""What a measured process tells the one that launched it: JSON lines over an inherited pipe.

Progress goes here because standard output belongs to the libraries, which print to it as they like.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Message:
    """``stage`` opens a step of ``total`` units, ``progress`` counts them, ``warning`` and ``error``
    carry ``text``; an error also carries the exit code that the command should end with."""

    kind: str
    text: str = ""
    done: int = 0
    total: int = 0
    exit_code: int = 0


class LauncherGone(KeyboardInterrupt):
    """Nobody hears this process any more: it ends as if it had been interrupted, instead of keeping the
    machine busy under whatever is measured next."""


class Reporter:
    """The sending end. Every method raises ``LauncherGone`` where the launcher was killed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: Message) -> None:
        line = json.dumps(asdict(message)).encode() + b"\n"
        try:
            os.write(self._fd, line)
        except BrokenPipeError as error:
            raise LauncherGone from error

    def stage(self, text: str, total: int = 0) -> None:
        self.send(Message("stage", text, total=total))

    def progress(self, done: int) -> None:
        self.send(Message("progress", done=done))

    def warning(self, text: str) -> None:
        self.send(Message("warning", text))

    def error(self, text: str, exit_code: int) -> None:
        self.send(Message("error", text, exit_code=exit_code))


def parse(line: bytes) -> Message:
    return Message(**json.loads(line))
