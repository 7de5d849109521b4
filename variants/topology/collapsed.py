"""A pool of front-end processes, each running the whole front end, and one inference process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.protocols import ServiceSpec
from variants.ipc.choice import transport_of
from variants.ipc.types import Transport
from variants.topology.options import checked, pipeline_options
from variants.topology.pipeline import Layout, Pipeline
from variants.topology.worker import WorkerPlan


def build(spec: ServiceSpec) -> Pipeline:
    """Options: ``frontend_workers``, and those of ``options.py``."""
    chosen = checked(spec.options, {"frontend_workers": 1})
    transport = transport_of(spec.ipc)
    frontends = tuple(f"frontend{index}" for index in range(int(chosen["frontend_workers"])))

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, frontends, folder)

    layout = Layout("collapsed", plans, entries=frontends, hops=3)
    return Pipeline(layout, transport, pipeline_options(chosen))


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
