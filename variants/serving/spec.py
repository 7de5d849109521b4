"""From the leaf that was chosen on each axis to the parts of a service. Picklable for child processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.protocols import BuildProgress, Engine, Frontend, ServiceSpec, ShapePlan, silent
from harness.spans import SpanRecorder
from variants import registry
from variants.frontend.config import FeatureConfig, FrontendConfig, SegmentConfig

Choice = Mapping[str, Any]
"""A leaf of ``conf/``: ``name``, ``options`` and what else its axis has, in plain types."""


def service_spec(
    choices: Mapping[str, Choice], lengths_s: Sequence[float], make_recorder: Callable[[], SpanRecorder]
) -> ServiceSpec:
    """What every topology builds its parts from, in whichever process. ``lengths_s`` are the audio set's."""
    return ServiceSpec(
        make_frontend=partial(make_frontend, choices["frontend"]),
        make_engine=partial(
            make_engine, choices["model"], choices["encoder"], choices["decoder"], tuple(lengths_s)
        ),
        ipc=choices["ipc"],
        io=choices["io"],
        gc=choices["gc"],
        options=choices["topology"]["options"],
        make_recorder=make_recorder,
    )


def make_frontend(config: Choice) -> Frontend:
    from variants.frontend.host import build as build_frontend

    nested = {"segment": SegmentConfig(**config["segment"]), "features": FeatureConfig(**config["features"])}
    return build_frontend(FrontendConfig(**{**config, **nested}))


def make_engine(
    model: Choice,
    encoder: Choice,
    decoder: Choice,
    lengths_s: Sequence[float],
    progress: BuildProgress = silent,
) -> Engine:
    """The model with its encoder and decoder, or an engine that a model choice is by itself."""
    from variants.models.options import ModelOptions

    options = ModelOptions(
        name=model["name"],
        weights=model["weights"],
        device=model["device"],
        precision=model["precision"],
        seed=model["seed"],
        tokens_per_speech_s=model["tokens_per_speech_s"],
        options=dict(model["options"]),
    )
    progress(f"model {model['name']}")
    built: Any = registry.load("model", model["name"])(options)
    if isinstance(built, Engine):
        return built
    from variants.serving.engine import AsrEngine

    plan = ShapePlan(tuple(model["buckets_s"]), model["max_batch"], tuple(lengths_s), progress=progress)
    progress(f"encoder {encoder['name']}")
    states = registry.load("encoder", encoder["name"])(built, encoder["options"], plan)
    progress(f"decoder {decoder['name']}")
    tokens = registry.load("decoder", decoder["name"])(built, decoder["options"], plan)
    return AsrEngine(model=built, encoder=states, decoder=tokens, plan=plan)
