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


def make_frontend(config: FrontendConfig) -> Frontend:
    from harness.frontend.chain import build_frontend

    return build_frontend(config)


def make_engine(
    model: ModelConfig, encoder: ChoiceConfig, decoder: ChoiceConfig, lengths_s: Sequence[float], threads: int
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
        options=dict(model.options),
    )
    built: Any = registry.load("model", model.name)(options)
    if isinstance(built, Engine):
        return built
    from harness.engine import AsrEngine

    _limit_threads(threads)
    plan = ShapePlan(tuple(model.buckets_s), model.max_batch, tuple(lengths_s))
    return AsrEngine(
        model=built,
        encoder=registry.load("encoder", encoder.name)(built, encoder.options, plan),
        decoder=registry.load("decoder", decoder.name)(built, decoder.options, plan),
        plan=plan,
    )


def make_service(config: RunConfig, lengths_s: Sequence[float]) -> Service:
    """The service under test, not yet started. ``lengths_s`` are the audio set's lengths."""
    spec = ServiceSpec(
        make_frontend=partial(make_frontend, config.frontend),
        make_engine=partial(
            make_engine, config.model, config.encoder, config.decoder, tuple(lengths_s), config.runner.threads
        ),
        ipc=_plain(config.ipc),
        io=_plain(config.io),
        gc=_plain(config.gc),
        options=dict(config.topology.options),
        make_recorder=partial(make_recorder, config.profiler.name),
    )
    service: Service = registry.load("topology", config.topology.name)(spec)
    return service


def _plain(choice: ChoiceConfig) -> dict[str, Any]:
    return dataclasses.asdict(choice)


def _limit_threads(threads: int) -> None:
    if threads > 0:
        import torch

        torch.set_num_threads(threads)
