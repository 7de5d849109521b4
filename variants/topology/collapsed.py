"""A pool of front-end processes, each running the whole front end, and inference processes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.protocols import ServiceSpec
from harness.protocols.options import Positive
from variants import registry
from variants.ipc.types import Transport
from variants.topology.pipeline import Layout, Pipeline, PipelineOptions
from variants.topology.worker import WorkerPlan


@dataclass(frozen=True, slots=True)
class Options(PipelineOptions):
    frontend_workers: Positive = 1
    """Processes that decode and preprocess."""
    inference_workers: Positive = 1
    """Processes that hold an engine, each on a CUDA device of its own."""


def build(spec: ServiceSpec) -> Pipeline:
    options: Options = registry.options("topology", "collapsed", spec.options)
    transport = registry.transport(spec.ipc)
    frontends = tuple(f"frontend{index}" for index in range(options.frontend_workers))
    inference = _inference_names(options.inference_workers)

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, frontends, inference, folder)

    layout = Layout("collapsed", plans, entries=frontends, hops=3, inference=inference)
    return Pipeline(layout, transport, options)


def _inference_names(count: int) -> tuple[str, ...]:
    return ("inference",) if count == 1 else tuple(f"inference{index}" for index in range(count))


def plans_of(
    spec: ServiceSpec,
    transport: Transport,
    frontends: Sequence[str],
    inference: Sequence[str],
    folder: Path,
) -> list[WorkerPlan]:
    """Any of the front ends feeds any of ``inference``, which answer ``main``. One inference process sees
    every device; of several, each sees its own."""
    engines = [
        WorkerPlan(
            name=name,
            transport=transport,
            source=str(folder / name),
            destinations=(str(folder / "main"),),
            make_engine=spec.make_engine,
            gc=spec.gc,
            make_recorder=spec.make_recorder,
            device=index if len(inference) > 1 else None,
        )
        for index, name in enumerate(inference)
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
