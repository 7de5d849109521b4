"""Turns between processes that are measured side by side: one works, the others wait.

Processes that take turns share what drifts over minutes. Requests that do share what drifts over
seconds as well: a neighbour's burst, a clock that falls, which on shared cores is most of it. The launcher
keeps the order: a process works while it has the turn and hands it back after every few requests. One that
ends, however it ends, is left out from then on, and the others keep their turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Generic, Protocol, TypeVar

from harness.run.messages import LauncherGone, Reporter

T = TypeVar("T")
TURN = "turn"
"""What the launcher says to the process whose turn it is."""


class Order(Generic[T]):
    """The launcher's side: whose turn it is. The first has the first turn."""

    def __init__(self, members: Sequence[T]) -> None:
        self._members = list(members)
        self.current: T | None = self._members[0] if self._members else None

    def pass_on(self) -> T | None:
        """The next has the turn, which is the same again where it is alone."""
        if self.current is not None:
            self.current = self._members[(self._members.index(self.current) + 1) % len(self._members)]
        return self.current

    def leave(self, member: T) -> bool:
        """``member`` has ended; whether the turn has passed on by that."""
        had_it = member is self.current
        if had_it:
            self.current = None if len(self._members) == 1 else self.pass_on()
        self._members.remove(member)
        return had_it and self.current is not None


class Pausable(Protocol):
    """What does not go on while others have their turn."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Turns:
    """A process's side. One that is ``alone`` has every turn."""

    def __init__(self, control: Connection, reporter: Reporter, alone: bool) -> None:
        self._control = control
        self._reporter = reporter
        self._alone = alone

    def take(self) -> None:
        """Sleep until it is this process's turn. Raises ``LauncherGone``."""
        if not self._alone:
            try:
                self._control.recv()
            except (EOFError, OSError) as error:
                raise LauncherGone from error

    def shares(self, requests: int, size: int, meter: Pausable) -> Iterator[range]:
        """``requests`` in ranges of ``size``, each in a turn of its own; in one range where it is alone.
        ``meter`` is paused between turns."""
        step = requests if self._alone or size == 0 else size
        for start in range(0, requests, step):
            if not self._alone:
                meter.pause()
                self._reporter.hand_over()
                self.take()
                meter.resume()
            yield range(start, min(start + step, requests))
