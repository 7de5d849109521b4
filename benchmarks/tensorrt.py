"""Engines alone, without torch in the timed process: the encoder stage where torch's interpreter lacks
TensorRT's bindings. First, where torch and NeMo are, then, where TensorRT, NumPy and cuda-bindings are:

    python -m benchmarks.tensorrt export --layers 4 --precision fp16 --output probes
    python -m benchmarks.tensorrt build probes --runtime tensorrt_rtx --target 8.9
    python -m benchmarks.tensorrt time probes --engines single single_own multi --json times.json

``export`` writes the graph, and for each length features with the states that PyTorch computes from them.
``build`` says what each engine weighs; TensorRT-RTX needs no GPU for it.
``time`` builds or finds the engines, holds each length to those states, and times what passed: from
features on the device to states on the device, waiting for the device after each call. Build first and time
later on a quiet machine: engines come out of the cache the second time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks import core
from harness.arguments import positive_integer, positive_seconds, result_file
from harness.command import command, guarded
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UsageError
from harness.files import write_text
from harness.protocols import Evidence
from variants.encoder.parity import LIMITS, States, compare, probe, require
from variants.encoder.planner import HOP_S, AffineCost, histogram, plan, seconds_to_frames
from variants.encoder.shapes import output_frames
from variants.encoder.tensorrt.process import BuiltEngine, EngineStore
from variants.encoder.tensorrt.run import CapturedCall, EngineRunner, Shape, to_float32
from variants.encoder.tensorrt.spec import INPUTS, OUTPUTS, EngineSpec, ShapeRange, hash_onnx
from variants.encoder.tensorrt.versions import Capability, Runtime, choose

MODULE = "benchmarks.tensorrt"
ENGINES = ("single", "single_own", "multi")
META = "meta.json"
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float8"}

Case = Mapping[str, np.ndarray]
"""Features ``[1, F, T]``, lengths ``[1]``, and what PyTorch makes of them: states, their lengths."""


# ---------------------------------------------------------------- export, with torch


def export_probes(options: argparse.Namespace) -> int:
    """The graph in ``output/graph`` and ``output/<seconds>.npz`` with features, lengths and states."""
    import torch

    from benchmarks.bisect import reference
    from benchmarks.models import random_model
    from variants.encoder.tensorrt.export import export
    from variants.models.options import ModelOptions, resolve_device

    fp8 = options.precision == "fp8"
    precision = "fp16" if fp8 else options.precision
    chosen = ModelOptions(options.model, precision=precision, seed=options.seed, layers=options.layers)
    model = random_model(chosen, resolve_device(chosen))
    encoder: Any = model.encoder
    frames = [_frames(seconds) for seconds in options.lengths]
    graph = Path(options.output) / "graph"
    graph.mkdir(parents=True, exist_ok=True)
    export(model, graph, max(frames), fp8=fp8)
    for seconds, count in zip(options.lengths, frames, strict=True):
        batch = probe(1, count, count, model.feature_bins, seed=count)
        found = reference(model, batch)
        arrays = {"features": batch.values, "lengths": batch.lengths}
        arrays |= {name: found[name] for name in OUTPUTS}
        np.savez(Path(options.output) / f"{seconds:g}.npz", **arrays)  # type: ignore[arg-type]
    meta = {
        "model": options.model,
        "layers": len(encoder.layers),
        "precision": options.precision,
        "seed": options.seed,
        "lengths_s": options.lengths,
        "bins": model.feature_bins,
        "width": int(encoder.d_model),
        "factor": int(encoder.subsampling_factor),
        "torch": torch.__version__,
        "reference_device": str(model.device),
    }
    (Path(options.output) / META).write_text(json.dumps(meta, indent=1))
    print(f"{options.output}: {len(encoder.layers)} layers, {len(frames)} lengths, {options.precision}")
    return int(ExitCode.DONE)


# ---------------------------------------------------------------- time, without torch


class Engine:
    """One engine with its inputs and outputs on the device, a length at a time."""

    def __init__(
        self, name: str, runner: EngineRunner, meta: Mapping[str, Any], ranges: Sequence[ShapeRange]
    ) -> None:
        self.name, self.runner, self.meta, self._ranges = name, runner, meta, ranges
        longest = ranges[-1].frames[2]
        states = output_frames(longest, meta["factor"]) * meta["width"] * 4
        sizes = dict(zip((*INPUTS, *OUTPUTS), (meta["bins"] * longest * 4, 4, states, 4), strict=True))
        self._addresses = {name: runner.gpu.allocate(size) for name, size in sizes.items()}
        self._captured: dict[Shape, CapturedCall] = {}

    def shape(self, frames: int) -> Shape:
        """Padded to the profile's maximum, unless the engine runs at the input's own length."""
        index = next(i for i, r in enumerate(self._ranges) if frames <= r.frames[2])
        padded = frames if self.name == "single_own" else self._ranges[index].frames[2]
        return Shape(1, padded, index)

    def other_shapes(self, frames: int) -> list[Shape]:
        """The shortest of each wider profile that holds ``frames``."""
        wider = range(self.shape(frames).profile + 1, len(self._ranges))
        return [Shape(1, max(frames, self._ranges[index].frames[0]), index) for index in wider]

    def states(self, case: Case, shape: Shape) -> States:
        """The engine's states for ``case``, cut to the length of PyTorch's."""
        features = _padded(case, shape.frames)
        outputs = {
            OUTPUTS[0]: (1, output_frames(shape.frames, self.meta["factor"]), self.meta["width"]),
            OUTPUTS[1]: (1,),
        }
        found = self.runner.run_host(features, case["lengths"], shape.profile, outputs)
        return States(to_float32(found[OUTPUTS[0]])[:, : case[OUTPUTS[0]].shape[1]], found[OUTPUTS[1]])

    def capture(self, shape: Shape) -> None:
        """Once for each shape; not part of any time."""
        if shape not in self._captured:
            context = self.runner.context(shape.profile)
            self.runner.bind(context, shape, self._addresses)
            self._captured[shape] = self.runner.capture(context)
            self.runner.keep_kernels()

    def load(self, case: Case, shape: Shape) -> None:
        features = np.ascontiguousarray(_padded(case, shape.frames))
        lengths = case["lengths"].astype(np.int32)
        self.runner.gpu.upload(features, self._addresses[INPUTS[0]], self.runner.stream)
        self.runner.gpu.upload(lengths, self._addresses[INPUTS[1]], self.runner.stream)
        self.runner.gpu.wait(self.runner.stream)

    def run_s(self, shape: Shape) -> float:
        """Wall seconds of one call, with the setting of its shape where no graph holds it."""
        captured = self._captured.get(shape)
        start = time.perf_counter()
        if captured is None:
            context = self.runner.shared_context(shape.profile)
            self.runner.bind(context, shape, self._addresses)
            self.runner.enqueue(context, self.runner.stream)
        else:
            self.runner.replay(captured, self.runner.stream)
        self.runner.gpu.wait(self.runner.stream)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Encoding:
    """``core.Contender``: one engine on one length, held to PyTorch's states."""

    engine: Engine
    case: Case
    cuda_graphs: bool

    @property
    def _frames(self) -> int:
        return int(self.case["features"].shape[2])

    def agree(self) -> Mapping[str, Any]:
        """Tells a profile that is wrong alone from an engine that is wrong."""
        engine, meta = self.engine, self.engine.meta
        limits = LIMITS[TYPES[meta["precision"]]]
        expected = States(self.case[OUTPUTS[0]], self.case[OUTPUTS[1]])
        shape = engine.shape(self._frames)
        what = f"{engine.name}, {self._frames} frames, {meta['precision']}, {meta['layers']} layers"
        try:
            return asdict(require(expected, engine.states(self.case, shape), limits, what))
        except InvalidMeasurementError as error:
            others = engine.other_shapes(self._frames)
            right = [s for s in others if compare(expected, engine.states(self.case, s)).within(limits)]
            if not right:
                raise
            raise InvalidMeasurementError(
                f"{error}. Profile {right[0].profile} is right for the same features, profile "
                f"{shape.profile} is not: TensorRT chose a wrong kernel for it; build with another "
                "--optimization-level or --tactic-sources"
            ) from error

    def run(self) -> core.Sample:
        shape = self.engine.shape(self._frames)
        if self.cuda_graphs:
            self.engine.capture(shape)
        self.engine.load(self.case, shape)
        return {"call_s": self.engine.run_s(shape)}

    def evidence(self) -> Evidence:
        return {**asdict(self.engine.shape(self._frames)), **self.engine.runner.evidence()}


def trials(options: argparse.Namespace, results: core.Results) -> Iterator[core.Trial]:
    """One engine built after the other, then each length on all of them."""
    folder = Path(options.probes)
    meta = _read_meta(folder)
    results.note(meta=meta, cuda_graphs=options.cuda_graphs)
    engines, missing = _engines(options, folder, meta, results)
    title = f"{engines[0].runner.evidence()['runtime']} at level {options.optimization_level}"
    for seconds in meta["lengths_s"]:
        case = dict(np.load(folder / f"{seconds:g}.npz"))
        yield core.Trial(
            panel=f"{title}, {meta['layers']} layers, batch 1",
            size_name="audio length",
            size=seconds,
            unit=" s",
            contenders={engine.name: Encoding(engine, case, options.cuda_graphs) for engine in engines},
            missing=missing,
        )


def _engines(
    options: argparse.Namespace, folder: Path, meta: Mapping[str, Any], results: core.Results
) -> tuple[list[Engine], dict[str, HarnessError]]:
    """Those that could be built, and why others could not. Raises the first error where none could."""
    spec = _spec(options, folder, meta)
    engines: list[Engine] = []
    built: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    missing: dict[str, HarnessError] = {}
    for name in options.engines:
        try:
            engine, built[name] = _build(name, spec, options, meta)
        except HarnessError as error:
            missing[name] = error
            continue
        results.note(engines=built)
        engines.append(engine)
        if options.layers_json:
            layers[name] = engine.runner.layers()
            write_text(options.layers_json, json.dumps(layers, indent=1))
    if not engines:
        raise next(iter(missing.values()))
    return engines, missing


def _spec(options: argparse.Namespace, folder: Path, meta: Mapping[str, Any]) -> EngineSpec:
    """What all engines share: everything but the profiles."""
    graph = folder / "graph" / "encoder.onnx"
    return EngineSpec(
        str(graph),
        hash_onnx(graph),
        meta["bins"],
        meta["precision"],
        profiles=(),
        optimization_level=options.optimization_level,
        tactic_sources=None if options.tactic_sources is None else tuple(options.tactic_sources),
        runtime=choose(options.runtime),
        target=options.target,
    )


def _build(
    name: str, spec: EngineSpec, options: argparse.Namespace, meta: Mapping[str, Any]
) -> tuple[Engine, dict[str, Any]]:
    ranges = _ranges(name, meta["lengths_s"], options.profiles)
    built = _stored(name, replace(spec, profiles=ranges), options.cache)
    runner = EngineRunner(built.plan, meta["bins"], spec.runtime)
    said = runner.evidence()
    note = {
        **built.note(),
        "memory": runner.memory,
        "runtime": said["runtime"],
        "tensorrt": said["tensorrt"],
        "optimization_level": options.optimization_level,
        "profiles_frames": [each.frames for each in ranges],
    }
    return Engine(name, runner, meta, ranges), note


def _stored(name: str, spec: EngineSpec, cache: Path) -> BuiltEngine:
    built = EngineStore(cache, progress=core.tell).get(spec)
    when = "built before, in" if built.found else "built in"
    weighs = f"{built.plan.stat().st_size / 1e6:.1f} MB"
    print(f"{name}: {len(spec.profiles)} profiles, {weighs}, {when} {built.build_s:.0f} s", flush=True)
    return built


def build_engines(options: argparse.Namespace) -> int:
    """Into the cache, for the GPU that is here or for ``--target``, and what each weighs."""
    meta = _read_meta(options.probes)
    spec = _spec(options, options.probes, meta)
    for name in dict.fromkeys(name.removesuffix("_own") for name in options.engines):
        ranges = _ranges(name, meta["lengths_s"], options.profiles)
        _stored(name, replace(spec, profiles=ranges), options.cache)
    return int(ExitCode.DONE)


def _ranges(name: str, lengths_s: Sequence[float], profiles: int) -> tuple[ShapeRange, ...]:
    """One profile as wide as the longest length, or ``profiles`` planned for equally common lengths."""
    lengths = histogram({(1, _frames(seconds)): 1.0 for seconds in lengths_s})
    planned = plan(lengths, profiles if name == "multi" else 1, AffineCost())
    return tuple(ShapeRange((1, 1, 1), (each.min, each.opt, each.max)) for each in planned.profiles)


def _frames(seconds: float) -> int:
    return seconds_to_frames(seconds, HOP_S)


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: no probes there ({error}); make them with the command export") from error
    return meta


def _padded(case: Case, frames: int) -> np.ndarray:
    features = case["features"]
    return np.pad(features, ((0, 0), (0, 0), (0, frames - features.shape[2])))


# ---------------------------------------------------------------- the commands


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    if options.command == "export":
        return guarded(lambda: export_probes(options))
    if options.command == "build":
        return guarded(lambda: build_engines(options))
    return core.run_parsed(MODULE, options, trials, given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Time TensorRT engines alone.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_export(commands.add_parser("export", help="graph and reference states; needs torch and NeMo"))
    _add_build(commands.add_parser("build", help="build; TensorRT-RTX needs no GPU for it"))
    _add_time(commands.add_parser("time", help="build, compare, time; needs TensorRT and cuda-bindings"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="parakeet_tdt_0_6b_v3", choices=("parakeet_tdt_0_6b_v3", "parakeet_tiny")
    )
    parser.add_argument("--layers", type=positive_integer, help="the first so many layers (default: all)")
    parser.add_argument(
        "--precision", default="fp16", choices=tuple(TYPES), help="fp8: the large products of a model in fp16"
    )
    parser.add_argument(
        "--lengths", nargs="+", type=positive_seconds, default=[1.0, 2.0, 5.0, 10.0, 30.0], help="seconds"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("probes", type=Path, help="the folder that export wrote")
    parser.add_argument(
        "--engines",
        nargs="+",
        default=list(ENGINES),
        choices=ENGINES,
        help="single: one profile, padded to its maximum; single_own: the same engine at the input's own "
        "length; multi: several profiles, padded to each one's maximum (default: all)",
    )
    parser.add_argument(
        "--profiles", type=positive_integer, default=5, help="of the engine multi (default: 5)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache") / "engines",
        help="where engines are kept (default: .cache/engines)",
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        default=3,
        choices=range(6),
        help="how long the builder searches for kernels (default: 3)",
    )
    parser.add_argument("--tactic-sources", nargs="*", help="only these of TensorRT's TacticSource names")
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=("auto", *get_args(Runtime)),
        help="auto: TensorRT, or TensorRT-RTX where that alone is installed",
    )
    parser.add_argument(
        "--target",
        type=_capability,
        metavar="X.Y",
        help="compute capability to build for (default: of the GPU here; TensorRT knows no other)",
    )


def _capability(text: str) -> Capability:
    major, minor = text.split(".")
    return int(major), int(minor)


def _add_time(parser: argparse.ArgumentParser) -> None:
    _add_build(parser)
    parser.add_argument(
        "--no-cuda-graphs", dest="cuda_graphs", action="store_false", help="launch each kernel anew"
    )
    parser.add_argument(
        "--layers-json", type=result_file, help="write each engine's layers here, with the kernels chosen"
    )
    core.add_options(parser, rounds=100)


if __name__ == "__main__":
    sys.exit(command(main))
