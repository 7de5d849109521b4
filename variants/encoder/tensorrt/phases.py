"""How far a build is: TensorRT's nested phases as one line, with an estimate once a profile is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``(what, step, steps)``; 0 steps: unknown."""

_BEGINS_KERNELS = "Computing costs for"
"""What 8.6 logs, at its most verbose, before it times the kernels of one layer."""
_CHOOSING, _FOR_A_PROFILE = "Computing profile costs", "Timing tactics"
"""The phase that chooses kernels, and its child of which there is one for each optimization profile."""


class Phases:
    """What TensorRT's progress monitor tells, from several threads, in words for whoever waits.

    A build takes one profile after the other. How long those that are done took, on average, says how long
    the others will: short inputs' kernels are about as many as long ones'.
    """

    def __init__(
        self, profiles: int, progress: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._profiles, self._progress, self._clock = profiles, progress, clock
        self._lock = threading.Lock()
        self._steps: dict[str, int] = {}
        self._began_s: list[float] = []

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            if (parent, phase) == (_CHOOSING, _FOR_A_PROFILE):
                self._began_s.append(self._clock())
            self._steps[phase] = steps
            self._tell(phase, 0)

    def step(self, phase: str, done: int) -> None:
        with self._lock:
            self._tell(phase, done)

    def finish(self, phase: str) -> None:
        with self._lock:
            if phase == _CHOOSING:
                self._began_s.clear()
            self._tell(phase, self._steps.get(phase, 0))
            self._steps.pop(phase, None)

    def _tell(self, phase: str, done: int) -> None:
        self._progress(f"{self._profile()}{phase}", done, self._steps.get(phase, 0))

    def _profile(self) -> str:
        at = len(self._began_s)
        if not 0 < at <= self._profiles or self._profiles == 1:
            return ""
        which = f"profile {at} of {self._profiles}, "
        if at == 1:
            return which
        first, current = self._began_s[0], self._began_s[-1]
        each_s = (current - first) / (at - 1)
        left_s = max(0.0, each_s * (self._profiles - at + 1) - (self._clock() - current))
        return f"{which}about {left_s:.0f} s left, "


class KernelCount:
    """Progress of a build where the release reports none: layers whose kernels were timed, by the log."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._layers = progress, 0

    def __call__(self, text: str) -> None:
        if _BEGINS_KERNELS in text:
            self._layers += 1
            self._progress("choosing kernels, layer", self._layers, 0)
