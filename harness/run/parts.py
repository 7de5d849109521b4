"""Builds what a configuration names: front end, engine, service. Picklable for child processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from harness import registry
from harness.config.schema import ChoiceConfig, ModelConfig, RunConfig
from harness.frontend.config import FrontendConfig
from harness.protocols import Engine, Frontend, Service, ServiceSpec, ShapePlan
from harness.run.markers import make_recorder
from harness.workload.remote import RemoteService
from harness.workload.serving import ServerPlan


def make_frontend(config: FrontendConfig) -> Frontend:
    from harness.frontend.chain import build_frontend

    return build_frontend(config)


def make_engine(
    model: ModelConfig, encoder: ChoiceConfig, decoder: ChoiceConfig, lengths_s: Sequence[float]
) -> Engine:
    """The model with its encoder and decoder, or an engine that a model choice is by itself."""
    from variants.models.options import ModelOptions

    options = ModelOptions(
        name=model.name,
        weights=model.weights,
        device=model.device,
        precision=model.precision,
        seed=model.seed,
        tokens_per_speech_s=model.tokens_per_speech_s,
        layers=model.layers,
        options=dict(model.options),
    )
    built: Any = registry.load("model", model.name)(options)
    if isinstance(built, Engine):
        return built
    from harness.engine import AsrEngine

    plan = ShapePlan(tuple(model.buckets_s), model.max_batch, tuple(lengths_s))
    return AsrEngine(
        model=built,
        encoder=registry.load("encoder", encoder.name)(built, encoder.options, plan),
        decoder=registry.load("decoder", decoder.name)(built, decoder.options, plan),
        plan=plan,
    )


def make_service(config: RunConfig, lengths_s: Sequence[float], warm_up_s: Sequence[float]) -> Service:
    """The service under test, not yet started: in this process, or behind sockets (``io``).

    ``lengths_s`` are the audio set's lengths, ``warm_up_s`` those to warm a server up with.
    """
    if config.io.name != "none":
        plan = server_plan(config, lengths_s, warm_up_s)
        return RemoteService(plan, config.runner.start_timeout_s)
    service: Service = registry.load("topology", config.topology.name)(make_spec(config, lengths_s))
    return service


def server_plan(config: RunConfig, lengths_s: Sequence[float], warm_up_s: Sequence[float]) -> ServerPlan:
    """The server of a configuration: one choice of each axis of the serving path."""
    return ServerPlan(
        spec=make_spec(config, lengths_s),
        topology=config.topology.name,
        io=config.io.name,
        io_options=config.io.options,
        gc=config.gc.name,
        gc_options=config.gc.options,
        warm_up_s=tuple(warm_up_s),
    )


def make_spec(config: RunConfig, lengths_s: Sequence[float]) -> ServiceSpec:
    """What every topology builds its parts from, in whichever process."""
    return ServiceSpec(
        make_frontend=partial(make_frontend, config.frontend),
        make_engine=partial(make_engine, config.model, config.encoder, config.decoder, tuple(lengths_s)),
        ipc=_plain(config.ipc),
        io=_plain(config.io),
        gc=_plain(config.gc),
        options=dict(config.topology.options),
        make_recorder=partial(make_recorder, config.profiler.name),
    )


def _plain(choice: ChoiceConfig) -> dict[str, Any]:
    return dataclasses.asdict(choice)
