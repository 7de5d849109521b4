"""A process for each part of the path, audio passing through every one: what ``collapsed`` replaced."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from harness.protocols import ServiceSpec
from variants import registry
from variants.ipc.types import Transport
from variants.topology.pipeline import Layout, Pipeline, PipelineOptions
from variants.topology.worker import WorkerPlan

#: Process to the stages that it runs, in the order of the path.
SERVICES = {
    "decode": ("decode",),
    "preprocess": ("denoise",),
    "segment": ("vad", "segment"),
}


Options = PipelineOptions


def build(spec: ServiceSpec) -> Pipeline:
    options: Options = registry.options("topology", "microservices", spec.options)
    transport = registry.transport(spec.ipc)

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, folder)

    layout = Layout("microservices", plans, entries=(next(iter(SERVICES)),), hops=len(SERVICES) + 2)
    return Pipeline(layout, transport, options)


def plans_of(spec: ServiceSpec, transport: Transport, folder: Path) -> list[WorkerPlan]:
    """``decode | preprocess | segment | inference``, which answers ``main``."""
    names = [*SERVICES, "inference", "main"]
    plans = []
    for name, following in pairwise(names):
        engine = name == "inference"
        plans.append(
            WorkerPlan(
                name=name,
                transport=transport,
                source=str(folder / name),
                destinations=(str(folder / following),),
                make_frontend=None if engine else spec.make_frontend,
                stages=None if engine else SERVICES[name],
                make_engine=spec.make_engine if engine else None,
                gc=spec.gc if engine else {},
                make_recorder=spec.make_recorder,
            )
        )
    return plans
