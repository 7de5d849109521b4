"""Whisper's encoders and decoders against openai-whisper in one process, without audio.

    python -m benchmarks.whisper --model whisper_large_v3 --batches 1 8 32 --json times.json

A Whisper of synthetic weights encodes windows of noise and decodes what openai-whisper's encoder made of
them. A time is the wall time of one call and the wait for the device: features on the host to states, or
states to tokens on the host. States and tokens are held to openai-whisper's; beside a decoder's time stands
the time of one of its steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from benchmarks import core
from benchmarks.ceilings import H100
from harness.arguments import positive_integer
from harness.command import command
from harness.errors import HarnessError, UnavailableError
from harness.protocols import Encoder, EncoderOutput, Evidence, FeatureBatch, Hypothesis, ShapePlan
from variants.decoder.attention import cpu_synced, step_graph
from variants.decoder.options import CpuSynced, StepGraph
from variants.encoder.attention import compiled, eager
from variants.encoder.attention.compiled import probe
from variants.encoder.bucketed import on_host
from variants.encoder.memory import module_bytes
from variants.encoder.options import Compiled, Eager
from variants.encoder.parity import LIMITS, States, require, require_labels
from variants.models.options import ModelOptions, resolve_device
from variants.models.whisper.architecture import (
    BASE,
    LARGE_V3,
    LARGE_V3_TURBO,
    TINY_EN,
    WhisperArchitecture,
    openai_whisper,
)
from variants.models.whisper.assemble import assemble
from variants.models.whisper.model import AttentionModel
from variants.models.whisper.options import WhisperOptions

MODELS: Mapping[str, WhisperArchitecture] = {
    "whisper_large_v3": LARGE_V3,
    "whisper_large_v3_turbo": LARGE_V3_TURBO,
    "whisper_base": BASE,
    "whisper_tiny_en": TINY_EN,
}
TOKEN_AGREEMENT = {"fp32": 1.0, "fp16": 0.5}
"""Synthetic logits tie within what 16 bits round: from there a text goes another way."""


class TokenDecoder(Protocol):
    def tokens(self, encoded: EncoderOutput) -> list[Hypothesis]: ...

    def evidence(self) -> Evidence: ...


@dataclass(frozen=True)
class Ours:
    """One of our decoders; a window without speech keeps its tokens here."""

    decoder: Any

    def tokens(self, encoded: EncoderOutput) -> list[Hypothesis]:
        return [Hypothesis(found.tokens) for found in self.decoder.search(encoded)]

    def evidence(self) -> Evidence:
        evidence: Evidence = self.decoder.evidence()
        return evidence


@dataclass(frozen=True)
class Openai:
    """``whisper.decode``, over states that are encoded already."""

    model: AttentionModel

    def tokens(self, encoded: EncoderOutput) -> list[Hypothesis]:
        decoding = openai_whisper("decoding")
        options = decoding.DecodingOptions(
            language="en", sample_len=self.model.rules.max_tokens, fp16=self.model.dtype == torch.float16
        )
        found = decoding.decode(self.model.modules, encoded.values, options)
        return [Hypothesis(tuple(each.tokens)) for each in found]

    def evidence(self) -> Evidence:
        return {}


# ---------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Encoding:
    """``core.Contender``: an encoder on one batch, held to openai-whisper's states."""

    name: str
    model: AttentionModel
    encoder: Encoder
    batch: FeatureBatch
    expected: States

    def agree(self) -> Mapping[str, Any]:
        limits = LIMITS[str(self.model.dtype).removeprefix("torch.")]
        return asdict(require(self.expected, on_host(self.encoder.encode(self.batch)), limits, self.name))

    def run(self) -> core.Sample:
        self.model.synchronize()
        start = time.perf_counter()
        self.encoder.encode(self.batch)
        self.model.synchronize()
        return {"call_s": time.perf_counter() - start}

    def evidence(self) -> Evidence:
        return self.encoder.evidence()


@dataclass(frozen=True)
class Decoding:
    """``core.Contender``: a decoder on the states of one batch, held to openai-whisper's tokens."""

    name: str
    model: AttentionModel
    decoder: TokenDecoder
    encoded: EncoderOutput
    expected: Sequence[Hypothesis]
    least: float

    def agree(self) -> Mapping[str, Any]:
        found = self.decoder.tokens(self.encoded)
        return {"token_agreement": require_labels(self.expected, found, self.least, self.name)}

    def run(self) -> core.Sample:
        self.model.synchronize()
        start = time.perf_counter()
        found = self.decoder.tokens(self.encoded)
        taken_s = time.perf_counter() - start
        longest = max(len(each.tokens) for each in found)
        steps = min(longest + 1, self.model.rules.max_tokens)  # the end is a step, too
        return {"call_s": taken_s, "step_s": taken_s / steps, "steps": float(steps)}

    def evidence(self) -> Evidence:
        return self.decoder.evidence()


def trials(options: argparse.Namespace, results: core.Results) -> Iterator[core.Trial]:
    """Every batch size, through every encoder and then every decoder."""
    model = _model(options)
    results.note(model=options.model, precision=options.precision, weights=dict(model.provenance))
    reference = eager.build(model, Eager(), ShapePlan((), 1))
    plan = ShapePlan((30.0,), max(options.batches), progress=core.tell)
    encoders, no_encoders = _made(_encoders(model, options, plan), options.encoders)
    decoders, no_decoders = _made(_decoders(model, options, plan), options.decoders)
    for rows in options.batches:
        batch = probe(rows, model.size.n_mels)
        encoded = reference.encode(batch)
        states = on_host(encoded)
        yield core.Trial(
            panel="Encoders, windows of 30 s",
            size_name="batch",
            size=rows,
            contenders={
                name: Encoding(name, model, encoder, batch, states) for name, encoder in encoders.items()
            },
            floor_s=encoder_floor_s(model, rows),
            missing=no_encoders,
        )
        expected = Openai(model).tokens(encoded)
        least = TOKEN_AGREEMENT[options.precision]
        yield core.Trial(
            panel="Decoders, windows of 30 s",
            size_name="batch",
            size=rows,
            contenders={
                name: Decoding(name, model, decoder, encoded, expected, least)
                for name, decoder in decoders.items()
            },
            facts={"step_floor_s": step_floor_s(model, rows)},
            missing=no_decoders,
        )


def _model(options: argparse.Namespace) -> AttentionModel:
    asked = WhisperOptions(max_tokens=options.tokens)
    rate = 100.0 / 30.0
    chosen = ModelOptions(
        options.model,
        precision=options.precision,
        seed=options.seed,
        tokens_per_speech_s=rate,
        options=asked,
        progress=core.tell,
    )
    captured = {*options.encoders, *options.decoders} - {"openai", "cpu_synced"}
    if captured and resolve_device(chosen).type != "cuda":  # before a billion weights are drawn
        raise UnavailableError(
            f"{', '.join(sorted(captured))}: graphs need an NVIDIA GPU, and torch finds none: use "
            "--encoders openai --decoders openai cpu_synced"
        )
    return assemble(MODELS[options.model], chosen)


def _encoders(
    model: AttentionModel, options: argparse.Namespace, plan: ShapePlan
) -> Mapping[str, Callable[[], Encoder]]:
    def captured(backend: Any) -> Encoder:
        return compiled.build(model, Compiled(backend=backend, batches=tuple(options.batches)), plan)

    return {
        "openai": lambda: eager.build(model, Eager(), plan),
        "graph": lambda: captured("graph"),
        "inductor": lambda: captured("inductor"),
        "fused": lambda: captured("fused"),
    }


def _decoders(
    model: AttentionModel, options: argparse.Namespace, plan: ShapePlan
) -> Mapping[str, Callable[[], TokenDecoder]]:
    every = StepGraph(poll_every=options.poll_every)
    return {
        "openai": lambda: Openai(model),
        "cpu_synced": lambda: Ours(cpu_synced.build(model, CpuSynced(), plan)),
        "step_graph": lambda: Ours(step_graph.build(model, every, plan)),
    }


def _made(
    builders: Mapping[str, Callable[[], Any]], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, HarnessError]]:
    """What can be built here, by name; of the others, the reason."""
    made: dict[str, Any] = {}
    missing: dict[str, HarnessError] = {}
    for name in names:
        try:
            made[name] = builders[name]()
        except HarnessError as error:
            missing[name] = error
    return made, missing


def encoder_floor_s(model: AttentionModel, rows: int) -> float:
    """Seconds that no implementation goes below: two operations per weight and state, and the attention's
    products, at the device's peak; or the weights read once."""
    size, encoder = model.size, model.modules.encoder
    weights = sum(parameter.numel() for parameter in encoder.blocks.parameters())
    attention = 2 * size.n_audio_ctx * size.n_audio_state * size.n_audio_layer  # multiply-adds of one state
    flop = 2.0 * (weights + attention) * size.n_audio_ctx * rows
    return float(max(module_bytes(encoder) / H100.bytes_per_s, flop / H100.flop_per_s))


def step_floor_s(model: AttentionModel, rows: int) -> float:
    """Seconds in which a step's weights and each row's keys and values of the encoder are read once."""
    size, bytes_each = model.size, model.dtype.itemsize
    crossing = 2 * size.n_text_state**2 * size.n_text_layer  # keys' and values' matrices: used once a window
    weights = sum(parameter.numel() for parameter in model.modules.decoder.parameters()) - crossing
    cached = 2 * size.n_text_layer * size.n_audio_ctx * size.n_text_state * rows
    return float((weights + cached) * bytes_each / H100.bytes_per_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whisper", description="Time Whisper's parts.")
    parser.add_argument("--model", default="whisper_large_v3", choices=tuple(MODELS))
    parser.add_argument("--precision", default="fp16", choices=tuple(TOKEN_AGREEMENT))
    parser.add_argument("--encoders", nargs="*", default=["openai", "graph", "fused"],
                        choices=("openai", "graph", "inductor", "fused"))  # fmt: skip
    parser.add_argument("--decoders", nargs="*", default=["openai", "cpu_synced", "step_graph"],
                        choices=("openai", "cpu_synced", "step_graph"))  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=positive_integer, default=[1, 8])
    parser.add_argument("--tokens", type=positive_integer, default=224, help="at most, of a window")
    parser.add_argument("--poll-every", type=positive_integer, default=8, help="steps (step_graph)")
    parser.add_argument("--seed", type=int, default=0)
    core.add_options(parser, rounds=20)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.whisper", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
