"""The first layer whose output differs: ``python -m benchmarks.bisect``.

Exports the encoder with every layer's output as an output of the graph, runs it in ONNX Runtime (any
machine) or TensorRT, and compares with PyTorch's layers per valid frame. Extra outputs keep TensorRT from
fusing across them: when all agree here and the whole engine does not, a fusion is at fault.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from harness.command import command
from harness.errors import ExitCode, HarnessError, UnavailableError, UsageError
from harness.protocols import FeatureBatch
from variants.encoder.parity import LIMITS, Agreement, Limits, States, compare, probe
from variants.encoder.shapes import output_frames
from variants.encoder.tensorrt.export import FILE_NAME, ExportedEncoder, export
from variants.encoder.tensorrt.spec import INPUTS, OUTPUTS, EngineSpec, ShapeRange, hash_onnx
from variants.encoder.tensorrt.versions import Runtime
from variants.models.options import PRECISIONS, ModelOptions
from variants.models.types import TdtModel
from variants.onnx_sessions import quiet_onnxruntime

Run = Callable[[FeatureBatch], Mapping[str, np.ndarray]]
"""A batch to every output of the graph, floating ones as float32."""


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """How far one layer's output is from PyTorch's."""

    name: str
    agreement: Agreement


def bisect(model: TdtModel, run: Run, batch: FeatureBatch) -> list[LayerAgreement]:
    """Every tapped layer in order, the states last."""
    expected, found = reference(model, batch), run(batch)
    lengths = expected[OUTPUTS[1]]
    names = [name for name in expected if name not in OUTPUTS] + [OUTPUTS[0]]
    return [
        LayerAgreement(name, compare(States(expected[name], lengths), States(found[name], found[OUTPUTS[1]])))
        for name in names
    ]


def first_difference(layers: Sequence[LayerAgreement], limits: Limits) -> LayerAgreement | None:
    """The earliest layer beyond ``limits``."""
    return next((layer for layer in layers if not layer.agreement.within(limits)), None)


@torch.inference_mode()
def reference(model: TdtModel, batch: FeatureBatch) -> dict[str, np.ndarray]:
    """PyTorch's outputs by name, in the model's number type."""
    wrapped = ExportedEncoder(model.encoder, taps=True)
    features = torch.from_numpy(batch.values).to(model.device)
    outputs = wrapped(features, torch.from_numpy(batch.lengths).to(model.device, torch.int32))
    names = (*OUTPUTS, *wrapped.tapped())
    return {name: _array(value) for name, value in zip(names, outputs, strict=True)}


def _array(value: torch.Tensor) -> np.ndarray:
    array: np.ndarray = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return array


def onnxruntime_run(graph: Path) -> Run:
    """On the CPU. Raises ``UnavailableError`` without ONNX Runtime or for a type that it lacks."""
    try:
        onnxruntime = quiet_onnxruntime()
    except ImportError as error:
        raise UnavailableError(
            "the Python package 'onnxruntime' is not installed: pip install onnxruntime"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        raise UnavailableError(f"onnxruntime cannot run {graph}: {error}") from error

    def run(batch: FeatureBatch) -> Mapping[str, np.ndarray]:
        values = session.run(
            None, dict(zip(INPUTS, (batch.values, batch.lengths.astype(np.int32)), strict=True))
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, values, strict=True))

    return run


def tensorrt_run(
    graph: Path, model: TdtModel, precision: str, batch: FeatureBatch, cache: Path, runtime: Runtime
) -> Run:
    """One engine for the shape of ``batch``, built under ``cache``."""
    from variants.encoder.tensorrt.process import EngineStore
    from variants.encoder.tensorrt.run import EngineRunner, to_float32

    rows, bins, frames = batch.values.shape
    profile = ShapeRange((rows, rows, rows), (frames, frames, frames))
    spec = EngineSpec(str(graph), hash_onnx(graph), bins, precision, (profile,), runtime=runtime)
    runner = EngineRunner(EngineStore(cache).get(spec).plan, bins, runtime)
    shapes = _output_shapes(model, rows, frames)

    def run(given: FeatureBatch) -> Mapping[str, np.ndarray]:
        found = runner.run_host(np.asarray(given.values), given.lengths, 0, shapes)
        return {
            name: value if value.dtype == np.int32 else to_float32(value) for name, value in found.items()
        }

    return run


def _output_shapes(model: TdtModel, rows: int, frames: int) -> dict[str, tuple[int, ...]]:
    encoder: Any = model.encoder
    states = (rows, output_frames(frames, int(encoder.subsampling_factor)), int(encoder.d_model))
    names = (OUTPUTS[0], *ExportedEncoder(encoder).tapped())
    return {OUTPUTS[1]: (rows,), **dict.fromkeys(names, states)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a line per layer, name the first that differs. Exit code 4 if one does."""
    options = _parser().parse_args(arguments)
    try:
        return int(_main(options))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)


def _main(options: argparse.Namespace) -> ExitCode:
    if min(options.rows, options.frames) < 1:
        raise UsageError(f"--rows {options.rows} --frames {options.frames}: both have to be above 0")
    model = _load(options)
    batch = probe(options.rows, max(1, options.frames // 2), options.frames, model.feature_bins)
    limits = LIMITS[PRECISIONS[options.precision]]
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder), options.frames, taps=True)
        graph = Path(folder) / FILE_NAME
        run = (
            onnxruntime_run(graph)
            if options.runtime == "onnxruntime"
            else tensorrt_run(
                graph,
                model,
                options.precision,
                batch,
                options.cache or Path(folder) / "engines",
                options.runtime,
            )
        )
        layers = bisect(model, run, batch)
    for layer in layers:
        found = layer.agreement
        print(f"{layer.name:12s} cosine {found.cosine:.7f}  relative {found.relative:.2e}")
    different = first_difference(layers, limits)
    if different is None:
        print(f"every layer agrees (cosine {limits.cosine}, relative {limits.relative})")
        return ExitCode.DONE
    print(f"first difference: {different.name}")
    return ExitCode.INVALID


def _load(options: argparse.Namespace) -> TdtModel:
    build = importlib.import_module(f"variants.models.{options.model}").build
    model: TdtModel = build(
        ModelOptions(
            name=options.model, weights=options.weights, device=options.device, precision=options.precision
        )
    )
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bisect",
        description="Find the first encoder layer whose output differs from PyTorch's.",
    )
    models = ("parakeet_tdt_0_6b_v3", "parakeet_tiny")
    parser.add_argument("--model", default="parakeet_tiny", choices=models)
    parser.add_argument("--weights", default="synthetic", help="synthetic, embedded, or a checkpoint's path")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=tuple(PRECISIONS))
    parser.add_argument("--runtime", default="tensorrt", choices=("onnxruntime", *get_args(Runtime)))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--frames", type=int, default=500, help="feature frames of the longest row")
    parser.add_argument("--cache", type=Path, help="keep the engine here (default: build and discard)")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))
