"""A pool of front-end processes, each running the whole front end, and one inference process."""

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
    """Processes that decode, preprocess and compute features."""


def build(spec: ServiceSpec) -> Pipeline:
    options: Options = registry.options("topology", "collapsed", spec.options)
    transport = registry.transport(spec.ipc)
    frontends = tuple(f"frontend{index}" for index in range(options.frontend_workers))

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, frontends, folder)

    layout = Layout("collapsed", plans, entries=frontends, hops=3)
    return Pipeline(layout, transport, options)


def plans_of(
    spec: ServiceSpec, transport: Transport, frontends: Sequence[str], folder: Path
) -> list[WorkerPlan]:
    """Any of the front ends feeds ``inference``, which answers ``main``."""
    inference = WorkerPlan(
        name="inference",
        transport=transport,
        source=str(folder / "inference"),
        destination=str(folder / "main"),
        make_engine=spec.make_engine,
        gc=spec.gc,
        make_recorder=spec.make_recorder,
    )
    pool = [
        WorkerPlan(
            name=name,
            transport=transport,
            source=str(folder / name),
            destination=inference.source,
            make_frontend=spec.make_frontend,
            make_recorder=spec.make_recorder,
        )
        for name in frontends
    ]
    return [*pool, inference]
