"""Engines alone, without torch in the timed process: the encoder stage where torch's interpreter lacks
TensorRT's bindings. First, where torch and NeMo are, then, where TensorRT, NumPy and cuda-bindings are:

    python -m variants.encoder.tensorrt.bench export --layers 4 --precision fp16 --output probes
    python -m variants.encoder.tensorrt.bench time probes --engines single single_own multi --json times.json

``export`` writes the graph, and for each length features with the states that PyTorch computes from them.
``time`` builds or finds the engines, holds each length to those states, and times what passed: from
features on the device to states on the device, waiting for the device after each call. Build first and time
later on a quiet machine: engines come out of the cache the second time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from harness.arguments import positive_integer, positive_seconds, result_file
from harness.bench_provenance import bench_provenance
from harness.command import command
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UsageError
from harness.files import write_text
from variants.encoder.parity import LIMITS, States, compare, probe, require
from variants.encoder.planner import HOP_S, AffineCost, histogram, plan, seconds_to_frames
from variants.encoder.shapes import output_frames
from variants.encoder.tensorrt.process import EngineStore
from variants.encoder.tensorrt.run import CapturedCall, EngineRunner, Shape, to_float32
from variants.encoder.tensorrt.spec import INPUTS, OUTPUTS, EngineSpec, ShapeRange, hash_onnx

ENGINES = ("single", "single_own", "multi")
META = "meta.json"
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


# ---------------------------------------------------------------- export, with torch


def export_probes(options: argparse.Namespace, _arguments: Sequence[str]) -> None:
    """The graph in ``output/graph`` and ``output/<seconds>.npz`` with features, lengths and states."""
    import torch

    from variants.encoder.bench import build_model, keep_layers
    from variants.encoder.tensorrt.bisect import reference
    from variants.encoder.tensorrt.export import export

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(options.model, options.precision, device, options.seed)
    keep_layers(model, options.layers)
    encoder: Any = model.encoder
    frames = [_frames(seconds) for seconds in options.lengths]
    graph = Path(options.output) / "graph"
    graph.mkdir(parents=True, exist_ok=True)
    export(model, graph, max(frames))
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
        "reference_device": str(device),
    }
    (Path(options.output) / META).write_text(json.dumps(meta, indent=1))
    print(f"{options.output}: {len(encoder.layers)} layers, {len(frames)} lengths, {options.precision}")


# ---------------------------------------------------------------- time, without torch


class Timed:
    """One engine with its inputs and outputs on the device, a length at a time."""

    def __init__(
        self, name: str, runner: EngineRunner, meta: Mapping[str, Any], ranges: Sequence[ShapeRange]
    ) -> None:
        self.name, self.runner, self._meta, self._ranges = name, runner, meta, ranges
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

    def verify(self, case: Mapping[str, np.ndarray], what: str) -> dict[str, Any]:
        """Parity with PyTorch's states. Raises ``InvalidMeasurementError``, which tells a profile that is
        wrong alone from an engine that is wrong."""
        limits = LIMITS[TYPES[self._meta["precision"]]]
        expected = States(case[OUTPUTS[0]], case[OUTPUTS[1]])
        shape = self.shape(case["features"].shape[2])
        try:
            return asdict(require(expected, self._states(case, shape), limits, what))
        except InvalidMeasurementError as error:
            wider = range(shape.profile + 1, len(self._ranges))
            states = {index: self._states(case, self._least(case, index)) for index in wider}
            right = [index for index in wider if compare(expected, states[index]).within(limits)]
            if not right:
                raise
            raise InvalidMeasurementError(
                f"{error}. Profile {right[0]} is right for the same features, profile {shape.profile} is "
                "not: TensorRT chose a wrong kernel for it; build with another --optimization-level or "
                "--tactic-sources"
            ) from error

    def _least(self, case: Mapping[str, np.ndarray], profile: int) -> Shape:
        """The shortest shape of a profile that holds ``case``."""
        return Shape(1, max(case["features"].shape[2], self._ranges[profile].frames[0]), profile)

    def _states(self, case: Mapping[str, np.ndarray], shape: Shape) -> States:
        """The engine's states for ``case``, cut to the length of PyTorch's."""
        features = _padded(case, shape.frames)
        outputs = {
            OUTPUTS[0]: (1, output_frames(shape.frames, self._meta["factor"]), self._meta["width"]),
            OUTPUTS[1]: (1,),
        }
        found = self.runner.run_host(features, case["lengths"], shape.profile, outputs)
        return States(to_float32(found[OUTPUTS[0]])[:, : case[OUTPUTS[0]].shape[1]], found[OUTPUTS[1]])

    def prepare(self, frames: int, cuda_graphs: bool) -> Shape:
        """The call for ``frames``, captured where graphs are wanted; not part of any time."""
        shape = self.shape(frames)
        if cuda_graphs and shape not in self._captured:
            context = self.runner.context(shape.profile)
            self.runner.bind(context, shape, self._addresses)
            self._captured[shape] = self.runner.capture(context)
        return shape

    def load(self, case: Mapping[str, np.ndarray], shape: Shape) -> None:
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


def time_engines(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Build and compare one engine after the other, then rounds in which they take turns on each length.

    An engine that differs at a length is not timed there, and the others go on. What is known is
    written after each engine and each length. Raises ``InvalidMeasurementError`` at the end, naming what
    differed.
    """
    folder = Path(options.probes)
    meta = _read_meta(folder)
    cases = {seconds: dict(np.load(folder / f"{seconds:g}.npz")) for seconds in meta["lengths_s"]}
    rows = {seconds: _Row(seconds) for seconds in cases}
    notes: dict[str, Any] = {}
    result = {
        "provenance": bench_provenance("variants.encoder.tensorrt.bench", arguments, options.commit),
        "meta": meta,
        "engines": notes,
        "cuda_graphs": options.cuda_graphs,
    }

    def keep() -> None:
        if options.json:
            write_text(options.json, json.dumps({**result, "rows": [*map(asdict, rows.values())]}, indent=1))

    engines: list[Timed] = []
    layers: dict[str, Any] = {}
    spec = _spec(options, folder, meta)
    for name in options.engines:
        engine, notes[name] = _build(name, spec, options, meta)
        engines.append(engine)
        if options.layers_json:
            layers[name] = engine.runner.layers()
            write_text(options.layers_json, json.dumps(layers, indent=1))
        for seconds, case in cases.items():
            rows[seconds].compare(engine, case, meta)
        print(_verdict(name, rows.values()), flush=True)
        keep()
    for seconds, case in cases.items():
        rows[seconds].time(engines, case, options.rounds, options.cuda_graphs)
        print(_line(rows[seconds]), flush=True)
        keep()
    differing = [text for row in rows.values() for text in row.invalid.values()]
    if differing:
        raise InvalidMeasurementError("\n".join(differing))


@dataclass
class _Row:
    """What is known of one length: each engine's parity or why it has none, and seconds of every call."""

    length_s: float
    parity: dict[str, Any] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)
    samples_s: dict[str, list[float]] = field(default_factory=dict)

    def compare(self, engine: Timed, case: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        what = f"{engine.name}, {self.length_s:g} s, {meta['precision']}, {meta['layers']} layers"
        try:
            self.parity[engine.name] = engine.verify(case, what)
        except InvalidMeasurementError as error:
            self.invalid[engine.name] = str(error)

    def time(
        self, engines: Sequence[Timed], case: Mapping[str, np.ndarray], rounds: int, cuda_graphs: bool
    ) -> None:
        """Two rounds more than ``rounds``, the first two for warmth."""
        faithful = [engine for engine in engines if engine.name in self.parity]
        shapes = {e.name: e.prepare(case["features"].shape[2], cuda_graphs) for e in faithful}
        self.samples_s = {engine.name: [] for engine in faithful}
        for index in range(rounds + 2):
            for engine in faithful if index % 2 else reversed(faithful):
                engine.load(case, shapes[engine.name])
                taken = engine.run_s(shapes[engine.name])
                if index >= 2:
                    self.samples_s[engine.name].append(taken)


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
    )


def _build(
    name: str, spec: EngineSpec, options: argparse.Namespace, meta: Mapping[str, Any]
) -> tuple[Timed, dict[str, Any]]:
    ranges = _ranges(name, meta["lengths_s"], options.profiles)
    built = EngineStore(options.cache).get(replace(spec, profiles=ranges))
    runner = EngineRunner(built.plan, meta["bins"])
    version = runner.evidence()["tensorrt"]
    note = {
        **built.note(),
        "memory": runner.memory,
        "tensorrt": version,
        "optimization_level": options.optimization_level,
        "profiles_frames": [each.frames for each in ranges],
    }
    when = "built before, in" if built.found else "built in"
    print(f"{name}: {len(ranges)} profiles, TensorRT {version}, {when} {built.build_s:.0f} s", flush=True)
    return Timed(name, runner, meta, ranges), note


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


def _padded(case: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
    features = case["features"]
    return np.pad(features, ((0, 0), (0, 0), (0, frames - features.shape[2])))


def _verdict(name: str, rows: Iterable[_Row]) -> str:
    right = [row.parity[name]["cosine"] for row in rows if name in row.parity]
    wrong = [f"{row.length_s:g} s" for row in rows if name in row.invalid]
    said = f"{name}: right at {len(right)} lengths (cosine {min(right):.6f})" if right else f"{name}:"
    return f"{said}, INVALID at {', '.join(wrong)}" if wrong else said


def _line(row: _Row) -> str:
    parts = [f"{name} {median_low(times) * 1e3:.3f}" for name, times in row.samples_s.items()]
    parts += [f"{name} INVALID" for name in row.invalid]
    return f"{row.length_s:5.1f} s  p50 ms: {'  '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; an error is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        options.run(options, arguments)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m variants.encoder.tensorrt.bench", description="Time TensorRT engines alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    making = commands.add_parser("export", help="graph and reference states; needs torch and NeMo")
    making.set_defaults(run=export_probes)
    making.add_argument(
        "--model", default="parakeet_tdt_0_6b_v3", choices=("parakeet_tdt_0_6b_v3", "parakeet_tiny")
    )
    making.add_argument("--layers", type=positive_integer, help="the first so many layers (default: all)")
    making.add_argument("--precision", default="fp16", choices=tuple(TYPES))
    making.add_argument(
        "--lengths", nargs="+", type=positive_seconds, default=[1.0, 2.0, 5.0, 10.0, 30.0], help="seconds"
    )
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--output", type=Path, required=True)
    timing = commands.add_parser("time", help="build, compare, time; needs tensorrt and cuda-bindings")
    timing.set_defaults(run=time_engines)
    timing.add_argument("probes", type=Path, help="the folder that export wrote")
    timing.add_argument(
        "--engines",
        nargs="+",
        default=list(ENGINES),
        choices=ENGINES,
        help="single: one profile, padded to its maximum; single_own: the same engine at the input's own "
        "length; multi: several profiles, padded to each one's maximum (default: all)",
    )
    timing.add_argument(
        "--profiles", type=positive_integer, default=5, help="of the engine multi (default: 5)"
    )
    timing.add_argument(
        "--rounds", type=positive_integer, default=100, help="calls of each engine and length (default: 100)"
    )
    timing.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache") / "engines",
        help="where engines are kept (default: .cache/engines)",
    )
    timing.add_argument(
        "--no-cuda-graphs", dest="cuda_graphs", action="store_false", help="launch each kernel anew"
    )
    timing.add_argument(
        "--optimization-level",
        type=int,
        default=3,
        choices=range(6),
        help="how long the builder searches for kernels (default: 3)",
    )
    timing.add_argument("--tactic-sources", nargs="*", help="only these of TensorRT's TacticSource names")
    timing.add_argument("--commit", help="git commit of the code, where there is no repository")
    timing.add_argument(
        "--layers-json", type=result_file, help="write each engine's layers here, with the kernels chosen"
    )
    timing.add_argument("--json", type=result_file, help="write every sample here, after each length")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
