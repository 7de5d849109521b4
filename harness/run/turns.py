"""Turns between processes that are measured side by side: one works, the others wait.

Processes that take turns share what drifts over minutes. Requests that do share what drifts over
seconds as well: a neighbour's burst, a clock that falls, which on shared cores is most of it. A token
travels around a ring of pipes; a process works while it holds it and hands it on after every few
requests. A process that ends closes its pipe, which hands the token on for good: the others end with it,
after as many requests. One that fails before stays in the ring and passes the token on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = b"t"


@dataclass(frozen=True)
class Place:
    """A process's place in the ring: where the token comes from and where it goes."""

    take_fd: int
    give_fd: int

    def keep_from_children(self) -> None:
        """A child that outlived this process would hold its pipe open, and with it the token."""
        for fd in (self.take_fd, self.give_fd):
            os.set_inheritable(fd, False)


class Turns:
    """A process's side of the ring. One without a place in it has every turn."""

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self._held = False

    def take(self) -> None:
        """Sleep until the token comes, or the process before this one has ended."""
        if self._place is not None:
            os.read(self._place.take_fd, 1)
            self._held = True

    def give(self) -> None:
        if self._place is not None:
            self._held = False
            with contextlib.suppress(BrokenPipeError):  # the next one has ended: nobody waits
                os.write(self._place.give_fd, _TOKEN)

    def forgo(self) -> None:
        """Pass the token on until the process before this one ends: the others go on as if this one were
        not among them. Were it gone, its neighbours would work at the same time."""
        if self._held:
            self.give()
        while self._place is not None and os.read(self._place.take_fd, 1):
            self.give()


@contextlib.contextmanager
def ring(count: int) -> Iterator[list[Place]]:
    """Places for ``count`` processes; the first has the token. Leave the block once all are launched:
    their ends are noticed only when nobody else holds the pipes."""
    pipes = [os.pipe() for _ in range(count)]
    try:
        os.write(pipes[0][1], _TOKEN)
        yield [Place(pipes[i][0], pipes[(i + 1) % count][1]) for i in range(count)]
    finally:
        for pipe in pipes:
            for fd in pipe:
                os.close(fd)
