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
    pieces_s = segment_lengths_s(lengths_s, choices["frontend"]["segment"]["max_segment_s"])
    return ServiceSpec(
        make_frontend=partial(make_frontend, choices["frontend"]),
        make_engine=partial(
            make_engine,
            choices["model"],
            choices["encoder"],
            choices["decoder"],
            choices["batching"],
            choices["frontend"],
            pieces_s,
        ),
        ipc=choices["ipc"],
        io=choices["io"],
        gc=choices["gc"],
        options=choices["topology"]["options"],
        devices=choices["topology"].get("devices", ()),
        make_recorder=make_recorder,
    )


def segment_lengths_s(recordings_s: Sequence[float], longest_s: float) -> tuple[float, ...]:
    """Of recordings in which nobody pauses: as many pieces of ``longest_s`` as fit, and the rest."""
    return tuple(
        piece_s
        for whole, rest_s in (divmod(length_s, longest_s) for length_s in recordings_s)
        for piece_s in (*(longest_s,) * int(whole), rest_s)
        if piece_s > 0
    )


def make_frontend(choice: Choice) -> Frontend:
    """The half that decodes: the whole front end, or what one on the device leaves to the host."""
    frontend: Frontend = registry.make("frontend", choice["name"], _beside_name(choice))
    return frontend


def _beside_name(choice: Choice) -> Choice:
    """The front end's options stand beside its name."""
    return {key: value for key, value in choice.items() if key != "name"}


def make_engine(
    model: Choice,
    encoder: Choice,
    decoder: Choice,
    batching: Choice,
    frontend: Choice,
    pieces_s: Sequence[float],
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
        built
        if isinstance(built, Inference)
        else _parts(built, model, encoder, decoder, frontend, pieces_s, progress)
    )
    engine: Engine = _made("batching", batching, inference)
    return engine


def _parts(
    model: Any,
    chosen: Choice,
    encoder: Choice,
    decoder: Choice,
    frontend: Choice,
    pieces_s: Sequence[float],
    progress: BuildProgress,
) -> Inference:
    from variants.serving.grouping import CPU_CALL_FRAMES
    from variants.serving.inference import EncoderDecoder

    plan = ShapePlan(tuple(chosen["buckets_s"]), chosen["max_batch"], tuple(pieces_s), progress=progress)
    progress(f"encoder {encoder['name']}")
    states = _made("encoder", encoder, model, family=model.family, plan=plan)
    progress(f"decoder {decoder['name']}")
    tokens = _made("decoder", decoder, model, family=model.family, plan=plan)
    stages = registry.on_device(frontend["name"], _beside_name(frontend), model)
    call_frames = CPU_CALL_FRAMES if model.device.type == "cpu" else None
    parts = EncoderDecoder(model, states, tokens, plan, stages, call_frames)
    inference: Inference = model.hearing(parts)
    return inference


def _made(axis: str, choice: Choice, *parts: Any, **more: Any) -> Any:
    return registry.make(axis, choice["name"], choice["options"], *parts, **more)
