"""A pool of front-end processes, each running the whole front end, and inference processes behind it."""

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
    """Options: ``frontend_workers``, ``inference_workers``, and those of ``options.py``."""
    chosen = checked(spec.options, {"frontend_workers": 1, "inference_workers": 1})
    transport = transport_of(spec.ipc)
    frontends = tuple(f"frontend{index}" for index in range(int(chosen["frontend_workers"])))
    inference = _inference_names(int(chosen["inference_workers"]))

    def plans(folder: Path) -> Sequence[WorkerPlan]:
        return plans_of(spec, transport, frontends, inference, folder)

    layout = Layout("collapsed", plans, entries=frontends, hops=3, inference=inference)
    return Pipeline(layout, transport, pipeline_options(chosen))


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
