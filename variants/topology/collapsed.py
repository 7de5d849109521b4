"""A pool of front-end processes, each running the whole front end, and inference processes behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.protocols import ServiceSpec
from harness.protocols.options import Count, Positive
from variants import registry
from variants.ipc.types import Transport
from variants.topology.pipeline import Layout, Pipeline, PipelineOptions
from variants.topology.worker import WorkerPlan


@dataclass(frozen=True, slots=True)
class Options(PipelineOptions):
    frontend_workers: Count = 1
    """Processes that decode and preprocess; 0: one for each core that inference leaves free."""
    inference_workers: Positive = 1
    """Processes that hold an engine, each on a CUDA device of its own. Where ``topology.devices``
    are given, one for each."""


def build(spec: ServiceSpec) -> Pipeline:
    options: Options = registry.options("topology", "collapsed", spec.options)
    transport = registry.transport(spec.ipc)
    devices = _devices(spec.devices, options.inference_workers)
    frontends = tuple(f"frontend{index}" for index in range(_pool_size(options, len(devices))))
    inference = _inference_names(len(devices))

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, frontends, dict(zip(inference, devices, strict=True)), folder)

    layout = Layout("collapsed", plans, entries=frontends, hops=3, inference=inference)
    return Pipeline(layout, transport, options)


def _devices(given: Sequence[int], workers: int) -> Sequence[int | None]:
    """The device of each inference process. A single one that is not told sees every device."""
    if given and workers not in (1, len(given)):
        raise UsageError(
            f"topology.options.inference_workers={workers} with topology.devices={list(given)}: each device "
            "has one process; leave inference_workers out"
        )
    return list(given) or (list(range(workers)) if workers > 1 else [None])


def _pool_size(options: Options, inference_processes: int) -> int:
    return options.frontend_workers or max(1, len(os.sched_getaffinity(0)) - inference_processes)


def _inference_names(count: int) -> tuple[str, ...]:
    return ("inference",) if count == 1 else tuple(f"inference{index}" for index in range(count))


def plans_of(
    spec: ServiceSpec,
    transport: Transport,
    frontends: Sequence[str],
    inference: Mapping[str, int | None],
    folder: Path,
) -> list[WorkerPlan]:
    """Any of the front ends feeds any of ``inference``, which answer ``main``. Each inference process sees
    its own device alone, or, where it is None, every device."""
    engines = [
        WorkerPlan(
            name=name,
            transport=transport,
            source=str(folder / name),
            destinations=(str(folder / "main"),),
            make_engine=spec.make_engine,
            gc=spec.gc,
            make_recorder=spec.make_recorder,
            device=device,
        )
        for name, device in inference.items()
    ]
    pool = [
        WorkerPlan(
            name=name,
            transport=transport,
            source=str(folder / name),
            destinations=tuple(engine.source for engine in engines),
            make_frontend=spec.make_frontend,
            make_recorder=spec.make_recorder,
        )
        for name in frontends
    ]
    return [*pool, *engines]
