"""Recordings made by several processes at once, each as fast as it can."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from harness.protocols.children import Child

Plan = TypeVar("Plan")
Made = TypeVar("Made")

_GRACE_S = 1.0


def make_all(target: str, job: object, plans: Sequence[Plan], processes: int) -> Iterator[object]:
    """What ``target`` (``"module:function"``, which calls ``serve``) makes of each plan, as they get ready.

    Plans are handed out one by one, in their order: the longest should come first. Raises what a process
    raised, an ``OSError`` as it was.
    """
    left = iter(plans)
    with ExitStack() as stack:
        children = [Child(target, job, f"rendering {n}") for n in range(min(processes, len(plans)))]
        for child in children:
            stack.callback(child.end, _GRACE_S)
            child.send(next(left))
        busy = {child.control: child for child in children}
        while busy:
            for control in wait(list(busy)):
                child = busy[control]  # type: ignore[index]
                made = child.hear()
                if isinstance(made, OSError):
                    raise made
                yield made
                try:
                    child.send(next(left))
                except StopIteration:
                    del busy[control]  # type: ignore[arg-type]


def serve(control: Connection, make: Callable[[Plan], Made]) -> int:
    """A process's side: make what it is given until nothing more comes."""
    with contextlib.suppress(EOFError):
        while True:
            plan: Plan = control.recv()
            try:
                control.send(make(plan))
            except OSError as error:  # a full disk is for whoever knows what it is full of
                control.send(error)
    return 0
