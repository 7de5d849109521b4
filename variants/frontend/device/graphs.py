"""Stages of the front end as CUDA graphs: one for each shape, in static buffers, replayed.

A stage is some dozens of short kernels, whose launches take longer than the kernels. Batches are padded to
few shapes; a shape's graph is captured when it is first met, which warming up sees to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import floor
from typing import Any

import torch

from harness.errors import HarnessError

Stage = Callable[..., torch.Tensor]
"""Tensors of fixed shapes to a tensor, by kernels of the device alone: nothing in it asks the host."""

_WARM_UP_RUNS = 3  # libraries choose kernels and allocate workspaces in the first, never during capture
_STEP_S, _GROWTH = 0.5, 1.25


@dataclass(frozen=True)
class Shapes:
    """The shapes that batches are padded to: powers of two of rows, and lengths of which each is at most a
    quarter or half a second longer than the one before."""

    up_to_s: float
    sample_rate: int

    @cached_property
    def lengths_s(self) -> tuple[float, ...]:
        """Ascending, to ``up_to_s``."""
        found = [min(_STEP_S, self.up_to_s)]
        while found[-1] < self.up_to_s:
            longer = max(found[-1] + _STEP_S, floor(found[-1] * _GROWTH / _STEP_S) * _STEP_S)
            found.append(min(longer, self.up_to_s))
        return tuple(found)

    def padded(self, rows: int, samples: int) -> tuple[int, int] | None:
        """The smallest that holds so many, or None where none is that long."""
        place = bisect_left(self.lengths_s, samples / self.sample_rate)
        if place == len(self.lengths_s):
            return None
        return 1 << max(0, rows - 1).bit_length(), round(self.lengths_s[place] * self.sample_rate)


@dataclass
class GraphedStages:
    """Captures into one memory pool, for stages that never run at the same time; counts."""

    device: torch.device
    replays: Counter[str] = field(default_factory=Counter)
    captures: Counter[str] = field(default_factory=Counter)
    _captured: dict[tuple[Any, ...], _Captured] = field(default_factory=dict)
    _pool: Any = None

    def run(self, name: str, stage: Stage, *inputs: torch.Tensor) -> torch.Tensor:
        """What ``stage`` makes of ``inputs``; it is overwritten when this stage next meets their shapes."""
        key = (name, *((each.shape, each.dtype) for each in inputs))
        if key not in self._captured:
            self._captured[key] = self._capture(name, stage, inputs)
            self.captures[name] += 1
        self.replays[name] += 1
        return self._captured[key].replay(inputs)

    def evidence(self) -> Mapping[str, Any]:
        return {"replays": dict(self.replays), "captures": dict(self.captures)}

    def _capture(self, name: str, stage: Stage, inputs: tuple[torch.Tensor, ...]) -> _Captured:
        static = tuple(each.clone() for each in inputs)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            _warm_up(stage, static, self.device)
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = stage(*static)
        except RuntimeError as error:
            shapes = ", ".join("x".join(map(str, each.shape)) for each in static)
            raise HarnessError(f"frontend=device: capture of {name} for {shapes} failed: {error}") from error
        return _Captured(graph, static, output)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, ...]
    output: torch.Tensor

    def replay(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.output


def _warm_up(stage: Stage, inputs: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """On a stream of its own, as capture needs it."""
    main = torch.cuda.current_stream(device)
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_RUNS):
            stage(*inputs)
    main.wait_stream(side)
