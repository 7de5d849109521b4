"""Encoders against each other in one process, without audio or a decoder.

    python -m benchmarks.encoder --encoders eager graph inductor --json times.json

The encoder of a Parakeet with random weights encodes noise of given lengths. A time is the wall time of one
``encode`` call and the wait for the device: from features on the host to states on the device, as in the
span ``encoder`` of a run. States are held to the eager encoder's, when a shape is prepared and here again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

import torch

from benchmarks import core
from benchmarks.ceilings import H100
from benchmarks.models import ARCHITECTURES, random_model
from harness.arguments import positive_integer, positive_seconds
from harness.command import command
from harness.errors import HarnessError, UnavailableError
from harness.protocols import Encoder, Evidence, FeatureBatch, ShapePlan
from variants.encoder import compiled, eager
from variants.encoder.bucketed import on_host
from variants.encoder.memory import DeviceMemory, module_bytes
from variants.encoder.options import Backend, Compiled, Eager
from variants.encoder.parity import LIMITS, States, probe, require
from variants.encoder.planner import seconds_to_frames
from variants.encoder.shapes import output_frames
from variants.models.options import PRECISIONS, ModelOptions, resolve_device
from variants.models.types import TdtModel

NAMES = ("eager", *get_args(Backend), "best")


@dataclass(frozen=True)
class Encoding:
    """``core.Contender``: one encoder on one batch, held to the eager encoder's states."""

    name: str
    model: TdtModel
    encoder: Encoder
    batch: FeatureBatch
    expected: States

    def agree(self) -> Mapping[str, Any]:
        precision = str(self.model.dtype).removeprefix("torch.")
        found = on_host(self.encoder.encode(self.batch))
        return asdict(require(self.expected, found, LIMITS[precision], self.name))

    def run(self) -> core.Sample:
        self.model.synchronize()
        start = time.perf_counter()
        self.encoder.encode(self.batch)
        self.model.synchronize()
        return {"call_s": time.perf_counter() - start}

    def evidence(self) -> Evidence:
        return self.encoder.evidence()


def trials(options: argparse.Namespace, results: core.Results) -> Iterator[core.Trial]:
    """Every batch size and length through every encoder."""
    model = _model(options)
    plan = ShapePlan(tuple(sorted(options.lengths)), max(options.batches), progress=core.tell)
    encoders, built, missing = make_encoders(model, plan, options)
    results.note(
        model=options.model,
        layers=len(model.encoder.layers),  # type: ignore[arg-type]
        precision=options.precision,
        weights=model.provenance["weights"],
        cuda=torch.version.cuda,
        built=built,
    )
    reference = eager.build(model, Eager(), plan)
    for rows in options.batches:
        for length_s in plan.buckets_s:
            frames = seconds_to_frames(length_s, model.hop_s)
            batch = probe(rows, frames, frames, model.feature_bins)
            expected = on_host(reference.encode(batch))
            yield core.Trial(
                panel=f"Encoders, batch {rows}",
                size_name="audio length",
                size=length_s,
                unit=" s",
                contenders={
                    name: Encoding(name, model, encoder, batch, expected)
                    for name, encoder in encoders.items()
                },
                floor_s=floor_s(model, rows, frames),
                missing=missing,
            )


def _model(options: argparse.Namespace) -> TdtModel:
    if not torch.cuda.is_available() and set(options.encoders) != {"eager"}:
        raise UnavailableError("graphs need an NVIDIA GPU, and torch finds none: use --encoders eager")
    chosen = ModelOptions(
        options.model, precision=options.precision, seed=options.seed, layers=options.layers
    )
    return random_model(chosen, resolve_device(chosen))


def make_encoders(
    model: TdtModel, plan: ShapePlan, options: argparse.Namespace
) -> tuple[dict[str, Encoder], dict[str, Any], dict[str, HarnessError]]:
    """Encoders by name; for each the seconds that building took and the device memory that it and one call
    of the largest shape did, measured alike whether memory is taken ahead or in the call; and why others are
    missing."""
    frames = seconds_to_frames(max(plan.buckets_s), model.hop_s)
    largest = probe(plan.max_batch, frames, frames, model.feature_bins)
    made: dict[str, Encoder] = {}
    notes: dict[str, Any] = {}
    missing: dict[str, HarnessError] = {}
    for name in options.encoders:
        before, start = DeviceMemory.read(model.device), time.perf_counter()
        try:
            made[name] = _builder(name, model, plan, options)()
        except HarnessError as error:
            missing[name] = error
            continue
        model.synchronize()
        seconds = time.perf_counter() - start
        made[name].encode(largest)
        held = DeviceMemory.read(model.device, release=False).since(before)
        notes[name] = {"build_s": seconds, "weights_bytes": module_bytes(model.encoder), **held}
    return made, notes, missing


def _builder(
    name: str, model: TdtModel, plan: ShapePlan, options: argparse.Namespace
) -> Callable[[], Encoder]:
    if name == "eager":
        return lambda: eager.build(model, Eager(), plan)
    chosen = Compiled(
        backend=cast(Backend, name),
        longest_s=max(plan.buckets_s),
        mode=options.mode,
        batches=tuple(options.batches),
        any_length=not options.each_length,
        token_agreement=0.0,  # random weights decode to near ties
    )
    return lambda: compiled.build(model, chosen, plan)


def floor_s(model: TdtModel, batch: int, frames: int) -> float:
    """Seconds that no implementation goes below: weights read once, or two operations per weight and
    encoder frame (attention and convolutions left out), whichever takes longer."""
    encoder: Any = model.encoder
    weights = sum(parameter.numel() for parameter in encoder.layers.parameters())
    flop = 2.0 * weights * batch * output_frames(frames, encoder.subsampling_factor)
    return float(max(module_bytes(encoder) / H100.bytes_per_s, flop / H100.flop_per_s))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description="Time encoders.")
    parser.add_argument("--model", default="parakeet_tdt_0_6b_v3", choices=tuple(ARCHITECTURES))
    parser.add_argument("--layers", type=positive_integer, help="the first so many layers (default: all)")
    parser.add_argument("--precision", default="fp16", choices=tuple(PRECISIONS))
    parser.add_argument("--encoders", nargs="+", default=["eager", "graph"], choices=NAMES)
    parser.add_argument(
        "--mode", default="default", choices=("default", "max-autotune-no-cudagraphs"), help="of inductor"
    )
    parser.add_argument("--each-length", action="store_true", help="fused: compile for each length, not once")
    parser.add_argument(
        "--lengths", nargs="+", type=positive_seconds, default=[1.0, 2.0, 5.0, 10.0, 30.0], help="seconds"
    )
    parser.add_argument("--batches", nargs="+", type=positive_integer, default=[1, 8])
    parser.add_argument("--seed", type=int, default=0)
    core.add_options(parser, rounds=60)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    return core.run("benchmarks.encoder", _parser(), trials, arguments)


if __name__ == "__main__":
    sys.exit(command(main))
