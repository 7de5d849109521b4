"""Encoders against each other in one process, without audio or a decoder.

    python -m variants.encoder.bench --encoders eager graph inductor --json times.json

The encoder of a Parakeet with random weights made on the device encodes noise of given lengths. Encoders
take turns on the same inputs, so that a drift of the clock reaches all of them. A time is the wall time of
one ``encode`` call and the wait for the device: from features on the host to states on the device, as in
the span ``encoder`` of a run. Every prepared shape is held to the eager encoder before it is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from harness.arguments import positive_integer, positive_seconds, result_file
from harness.bench_provenance import bench_provenance
from harness.command import command
from harness.errors import ExitCode, HarnessError, UnavailableError, UsageError
from harness.files import write_text
from harness.measure.stats import nearest_rank
from harness.protocols import Encoder, FeatureBatch, ShapePlan
from harness.protocols.options import NoOptions
from variants.encoder import compiled, eager
from variants.encoder.memory import DeviceMemory, module_bytes
from variants.encoder.options import Compiled
from variants.encoder.parity import probe
from variants.encoder.planner import seconds_to_frames
from variants.encoder.shapes import output_frames
from variants.models.options import PRECISIONS
from variants.models.parakeet import PARAKEET_TDT_0_6B_V3, PARAKEET_TINY, TdtArchitecture, build_modules
from variants.models.types import TdtModel

ARCHITECTURES: Mapping[str, TdtArchitecture] = {
    "parakeet_tdt_0_6b_v3": PARAKEET_TDT_0_6B_V3,
    "parakeet_tiny": PARAKEET_TINY,
}
MATRIX_FLOP_PER_S = 8.0e14
MEMORY_BYTES_PER_S = 3.0e12
"""An H100's bf16 matrix product and device memory, as measured there: the floor beside each time."""
NAMES = ("eager", "graph", "inductor", "fused", "best")


class NoTokenizer:
    """Nothing is decoded here."""

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def build_model(name: str, precision: str, device: torch.device, seed: int) -> TdtModel:
    """The architecture with torch's random weights, drawn on ``device``: seconds instead of a minute."""
    torch.manual_seed(seed)
    architecture = ARCHITECTURES[name]
    with torch.device(device):
        modules = build_modules(architecture)
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    encoder, prednet, joint = (m.to(device, dtype).eval().requires_grad_(False) for m in modules)
    return TdtModel(
        name=name,
        encoder=encoder,
        prednet=prednet,
        joint=joint,
        tokenizer=NoTokenizer(),
        device=device,
        dtype=dtype,
        durations=architecture.durations,
        blank_id=architecture.blank_id,
        max_symbols=architecture.max_symbols,
        frame_s=architecture.frame_s,
        feature_bins=architecture.feature_bins,
        synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
    )


def keep_layers(model: TdtModel, layers: int | None) -> None:
    """Only the first ``layers`` Conformer layers from here on; None keeps all. Raises ``UsageError``."""
    encoder: Any = model.encoder
    if layers is None:
        return
    if layers > len(encoder.layers):
        raise UsageError(f"--layers {layers}: {model.name} has {len(encoder.layers)}")
    encoder.layers = encoder.layers[:layers]
    encoder.layer_drop_probs = encoder.layer_drop_probs[:layers]


def floor_s(model: TdtModel, batch: int, frames: int) -> float:
    """Seconds that no implementation goes below: weights read once, or two operations per weight and
    encoder frame (attention and convolutions left out), whichever takes longer."""
    encoder: Any = model.encoder
    weights = sum(parameter.numel() for parameter in encoder.layers.parameters())
    flop = 2.0 * weights * batch * output_frames(frames, encoder.subsampling_factor)
    return float(max(module_bytes(encoder) / MEMORY_BYTES_PER_S, flop / MATRIX_FLOP_PER_S))


def make_encoders(
    model: TdtModel, plan: ShapePlan, options: argparse.Namespace, names: Sequence[str]
) -> tuple[dict[str, Encoder], dict[str, Any]]:
    """Encoders by name, verified, and for each the seconds that building took and the device memory that
    it and one call of the largest shape did: measured alike, whether memory is taken ahead or in the call."""
    longest_s = max(plan.buckets_s)
    frames = seconds_to_frames(longest_s, model.hop_s)
    largest = probe(plan.max_batch, frames, frames, model.feature_bins)
    shared = Compiled(
        longest_s=longest_s,
        token_agreement=0.0,  # random weights decode to near ties
        mode=options.mode,
        any_length=not options.each_length,
        batches=tuple(options.batches),
    )
    builders: dict[str, Callable[[], Encoder]] = {"eager": lambda: eager.build(model, NoOptions(), plan)}
    for backend in NAMES[1:]:
        builders[backend] = lambda backend=backend: compiled.build(  # type: ignore[misc]
            model, replace(shared, backend=backend), plan
        )
    made: dict[str, Encoder] = {}
    notes: dict[str, Any] = {}
    for name in names:
        before, start = DeviceMemory.read(model.device), time.perf_counter()
        try:
            made[name] = builders[name]()
        except HarnessError as error:
            notes[name] = {"failed": f"{type(error).__name__}: {error}"}
            continue
        model.synchronize()
        seconds = time.perf_counter() - start
        made[name].encode(largest)
        held = DeviceMemory.read(model.device, release=False).since(before)
        notes[name] = {"build_s": seconds, "weights_bytes": module_bytes(model.encoder), **held}
    return made, notes


def time_encoders(
    model: TdtModel, encoders: Mapping[str, Encoder], batch: FeatureBatch, rounds: int
) -> dict[str, list[float]]:
    """Each encoder once per round, in an order that rotates and turns around; two rounds unmeasured."""
    names = list(encoders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 2):
        shift = index % len(names)
        order = names[shift:] + names[:shift]
        for name in order if index % 2 else reversed(order):
            model.synchronize()
            start = time.perf_counter()
            encoders[name].encode(batch)
            model.synchronize()
            if index >= 2:
                samples[name].append(time.perf_counter() - start)
    return samples


def bench(
    model: TdtModel, options: argparse.Namespace, keep: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Every length and batch size through every encoder. ``keep`` gets what is known after each."""
    plan = ShapePlan(tuple(sorted(options.lengths)), max(options.batches))
    encoders, notes = make_encoders(model, plan, options, options.encoders)
    rows: list[dict[str, Any]] = []
    found = {"rows": rows, "built": notes, "evidence": {}}
    for batch in options.batches:
        for length_s in plan.buckets_s:
            frames = seconds_to_frames(length_s, model.hop_s)
            values = probe(batch, frames, frames, model.feature_bins)
            samples = time_encoders(model, encoders, values, options.rounds)
            rows.append(_row(model, batch, length_s, frames, samples))
            print(_line(rows[-1]), flush=True)
            found["evidence"] = {name: dict(encoder.evidence()) for name, encoder in encoders.items()}
            keep(found)
    return found


def _row(
    model: TdtModel, batch: int, length_s: float, frames: int, samples: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    times = {
        name: {
            "p50_s": nearest_rank(np.array(values), 0.50),
            "p95_s": nearest_rank(np.array(values), 0.95) if len(values) >= 59 else None,
            "samples_s": list(values),
        }
        for name, values in samples.items()
    }
    return {"batch": batch, "length_s": length_s, "floor_s": floor_s(model, batch, frames), "encoders": times}


def _line(row: Mapping[str, Any]) -> str:
    times = "  ".join(f"{name} {t['p50_s'] * 1e3:8.3f}" for name, t in row["encoders"].items())
    shape = f"batch {row['batch']:3d}  {row['length_s']:5.1f} s"
    return f"{shape}  p50 ms: {times}  floor {row['floor_s'] * 1e3:.3f}"


def provenance(options: argparse.Namespace, arguments: Sequence[str], model: TdtModel) -> dict[str, Any]:
    """What the numbers belong to."""
    encoder: Any = model.encoder
    return {
        **bench_provenance("variants.encoder.bench", arguments, options.commit),
        "cuda": torch.version.cuda,
        "model": options.model,
        "layers": len(encoder.layers),
        "precision": options.precision,
        "weights": f"random, seed {options.seed}",
        "clock": "perf_counter, encode and synchronize",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Bench, print a line per shape, write JSON. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        if not torch.cuda.is_available() and set(options.encoders) != {"eager"}:
            raise UnavailableError("graphs need an NVIDIA GPU, and torch finds none: use --encoders eager")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(options.model, options.precision, device, options.seed)
        keep_layers(model, options.layers)
        origin = provenance(options, arguments, model)

        def keep(found: Mapping[str, Any]) -> None:
            if options.json:
                write_text(options.json, json.dumps({"provenance": origin, **found}, indent=1))

        result = bench(model, options, keep)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    failed = [f"{name}: {note['failed']}" for name, note in result["built"].items() if "failed" in note]
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return int(ExitCode.INVALID if failed else ExitCode.DONE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m variants.encoder.bench", description="Time encoders.")
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
    parser.add_argument("--rounds", type=positive_integer, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="git commit of the code, where there is no repository")
    parser.add_argument("--json", type=result_file, help="write every sample here, after each length")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
