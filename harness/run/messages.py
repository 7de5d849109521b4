"""What a measured process tells the one that launched it, over its control connection.

Progress goes here because standard output belongs to the libraries, which print to it as they like.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Message:
    """``stage`` opens a step of ``total`` units, ``progress`` counts them and may add a ``text``, ``turn``
    hands the turn on, and ``warning`` and ``error`` carry ``text``; an error has the exit code too that the
    command should end with.
    """

    kind: str
    text: str = ""
    done: int = 0
    total: int = 0
    exit_code: int = 0


class LauncherGone(KeyboardInterrupt):
    """Nobody hears this process any more: it ends as if it had been interrupted, instead of keeping the
    machine busy under whatever is measured next."""


class Reporter:
    """The sending end, for any thread. Every method raises ``LauncherGone`` where the launcher is gone."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._step: tuple[str, int] | None = None
        self._turn = threading.Lock()

    def send(self, message: Message) -> None:
        try:
            with self._turn:
                self._control.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise LauncherGone from error

    def stage(self, text: str, total: int = 0) -> None:
        self._step = (text, total)
        self.send(Message("stage", text, total=total))

    def progress(self, done: int, note: str = "") -> None:
        self.send(Message("progress", note, done=done))

    def building(self, what: str, done: int = 0, total: int = 0) -> None:
        """A ``BuildProgress``: a stage for everything that is built."""
        text = f"building: {what}"
        if (text, total) != self._step:
            self.stage(text, total)
        if done:
            self.progress(done)

    def counting(self, what: str, done: int = 0, total: int = 0) -> None:  # noqa: ARG002
        """A ``BuildProgress`` of the stage that is open."""
        self.progress(done)

    def hand_over(self) -> None:
        """It is the next one's turn."""
        self.send(Message("turn"))

    def warning(self, text: str) -> None:
        self.send(Message("warning", text))

    def error(self, text: str, exit_code: int) -> None:
        self.send(Message("error", text, exit_code=exit_code))
