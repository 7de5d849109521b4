"""From the leaf that was chosen on each axis to the parts of a service. Picklable for child processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.protocols import Engine, Frontend, ServiceSpec, ShapePlan
from harness.spans import SpanRecorder
from variants import registry

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


def make_frontend(choice: Choice) -> Frontend:
    """The front end's options stand beside its name."""
    given = {key: value for key, value in choice.items() if key != "name"}
    build = registry.load("frontend", choice["name"])
    frontend: Frontend = build(registry.options("frontend", choice["name"], given))
    return frontend


def make_engine(model: Choice, encoder: Choice, decoder: Choice, lengths_s: Sequence[float]) -> Engine:
    """The model with its encoder and decoder, or an engine that a model choice is by itself."""
    from variants.models.options import ModelOptions

    options = ModelOptions(
        name=model["name"],
        weights=model["weights"],
        device=model["device"],
        precision=model["precision"],
        seed=model["seed"],
        tokens_per_speech_s=model["tokens_per_speech_s"],
        options=registry.options("model", model["name"], model["options"]),
    )
    built: Any = registry.load("model", model["name"])(options)
    if isinstance(built, Engine):
        return built
    from variants.serving.engine import AsrEngine

    plan = ShapePlan(tuple(model["buckets_s"]), model["max_batch"], tuple(lengths_s))
    return AsrEngine(
        model=built,
        encoder=registry.load("encoder", encoder["name"])(
            built, registry.options("encoder", encoder["name"], encoder["options"]), plan
        ),
        decoder=registry.load("decoder", decoder["name"])(
            built, registry.options("decoder", decoder["name"], decoder["options"]), plan
        ),
        plan=plan,
    )
