"""From the leaf that was chosen on each axis to the parts of a service. Picklable for child processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.protocols import BuildProgress, Engine, Frontend, ServiceSpec, ShapePlan, silent
from harness.spans import SpanRecorder
from variants import registry
from variants.batching.types import Inference

Choice = Mapping[str, Any]
"""A leaf of ``conf/``: ``name``, ``options`` and what else its axis has, in plain types."""


def service_spec(
    choices: Mapping[str, Choice], lengths_s: Sequence[float], make_recorder: Callable[[], SpanRecorder]
) -> ServiceSpec:
    """What every topology builds its parts from, in whichever process. ``lengths_s`` are the audio set's."""
    return ServiceSpec(
        make_frontend=partial(make_frontend, choices["frontend"]),
        make_engine=partial(
            make_engine,
            choices["model"],
            choices["encoder"],
            choices["decoder"],
            choices["batching"],
            tuple(lengths_s),
        ),
        ipc=choices["ipc"],
        io=choices["io"],
        gc=choices["gc"],
        options=choices["topology"]["options"],
        devices=choices["topology"].get("devices", ()),
        make_recorder=make_recorder,
    )


def make_frontend(choice: Choice) -> Frontend:
    """The front end's options stand beside its name."""
    given = {key: value for key, value in choice.items() if key != "name"}
    frontend: Frontend = registry.make("frontend", choice["name"], given)
    return frontend


def make_engine(
    model: Choice,
    encoder: Choice,
    decoder: Choice,
    batching: Choice,
    lengths_s: Sequence[float],
    progress: BuildProgress = silent,
) -> Engine:
    """The model with its encoder and decoder, or what a model choice is by itself, behind its batching."""
    from variants.models.options import ModelOptions

    options = ModelOptions(
        name=model["name"],
        weights=model["weights"],
        device=model["device"],
        precision=model["precision"],
        seed=model["seed"],
        tokens_per_speech_s=model["tokens_per_speech_s"],
        layers=model["layers"],
        features=model["features"],
        options=registry.options("model", model["name"], model["options"]),
        progress=progress,
    )
    progress(f"model {model['name']}")
    built: Any = registry.load("model", model["name"])(options)
    inference = (
        built if isinstance(built, Inference) else _parts(built, model, encoder, decoder, lengths_s, progress)
    )
    engine: Engine = _made("batching", batching, inference)
    return engine


def _parts(
    model: Any,
    chosen: Choice,
    encoder: Choice,
    decoder: Choice,
    lengths_s: Sequence[float],
    progress: BuildProgress,
) -> Inference:
    from variants.serving.inference import EncoderDecoder

    plan = ShapePlan(tuple(chosen["buckets_s"]), chosen["max_batch"], tuple(lengths_s), progress=progress)
    progress(f"encoder {encoder['name']}")
    states = _made("encoder", encoder, model, plan=plan)
    progress(f"decoder {decoder['name']}")
    tokens = _made("decoder", decoder, model, plan=plan)
    return EncoderDecoder(model, states, tokens, plan)


def _made(axis: str, choice: Choice, *parts: Any, **more: Any) -> Any:
    return registry.make(axis, choice["name"], choice["options"], *parts, **more)
