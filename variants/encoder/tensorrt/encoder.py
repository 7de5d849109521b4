"""A model's encoder as a TensorRT engine: export, build (or find) and prepare every shape.

Shared by ``single_profile`` and ``multi_profile``, which differ in the profiles that they ask for. Torch
tensors cross by pointer; nothing else of torch reaches TensorRT.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness.errors import InvalidMeasurementError, UnavailableError, UsageError
from harness.protocols import BuildProgress, silent
from variants.content_cache import ContentCache, user_cache
from variants.cuda.device import Gpu
from variants.encoder.bucketed import BucketedEncoder, Call, StaticInputs
from variants.encoder.eager import extend_positions
from variants.encoder.memory import DeviceMemory
from variants.encoder.options import SingleProfile
from variants.encoder.shapes import ShapeGrid, Slot, output_frames
from variants.encoder.tensorrt import versions
from variants.encoder.tensorrt.export import FILE_NAME, export, export_key
from variants.encoder.tensorrt.process import BuiltEngine, EngineStore
from variants.encoder.tensorrt.run import CapturedCall, EngineRunner, Shape
from variants.encoder.tensorrt.spec import INPUTS, OUTPUTS, EngineSpec, ShapeRange, hash_onnx

if TYPE_CHECKING:
    from variants.models.types import TdtModel

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def require(name: str, model: TdtModel, chosen: SingleProfile) -> None:
    """Before minutes are spent. Raises ``UnavailableError`` naming what is missing, ``UsageError`` for what
    the runtime does not do."""
    if model.device.type != "cuda":
        raise UnavailableError(f"encoder={name} runs TensorRT and the model is on {model.device}: use a GPU")
    trt = versions.load(versions.choose(chosen.runtime))
    versions.require_capability(trt, Gpu().capability())
    versions.require_precision(trt, Gpu().capability(), chosen.precision)
    if chosen.captured_by == "runtime" and not versions.is_rtx(trt):
        raise UsageError(
            "encoder.options.captured_by=runtime: TensorRT does not capture by itself; use "
            "encoder.options.runtime=tensorrt_rtx, or captured_by=harness"
        )


def build_encoder(
    name: str,
    model: TdtModel,
    chosen: SingleProfile,
    grid: ShapeGrid,
    progress: BuildProgress = silent,
) -> BucketedEncoder:
    """The encoder, every prepared shape held to the eager one.

    Raises ``InvalidMeasurementError`` naming the bucket that differs, and TensorRT's errors in words.
    """
    extend_positions(model, (grid.longest + 1) * model.hop_s)
    root = Path(chosen.cache_dir) if chosen.cache_dir else user_cache("tensorrt")
    progress("exporting the encoder to ONNX")
    fp8 = chosen.precision == "fp8"
    onnx = exported(model, grid.longest, ContentCache(root / "onnx"), fp8)
    spec = make_spec(model, chosen, grid, onnx)
    built = EngineStore(root / "engines", progress=progress).get(spec)
    encoder = _assemble(model, chosen, grid, built, spec.runtime, progress)
    try:
        encoder.verify(name, chosen.token_agreement, progress)
    except InvalidMeasurementError as error:
        raise InvalidMeasurementError(
            f"{error}; TensorRT may have chosen a wrong kernel: try another "
            "encoder.options.optimization_level or encoder.options.tactic_sources"
        ) from error
    return encoder


def exported(model: TdtModel, longest_frames: int, cache: ContentCache, fp8: bool = False) -> Path:
    """The ONNX graph, exported unless weights of that hash have been before."""
    key = export_key(model, longest_frames, fp8)
    folder = cache.get(key) if key else None
    if folder is None:
        key = key or f"unnamed-{uuid.uuid4().hex}"  # never taken for another's
        with cache.create(key) as unfinished:
            export(model, unfinished, longest_frames, fp8=fp8)
        folder = cache.get(key)
    if folder is None:
        raise UnavailableError("the exported graph was damaged while it was written: is the disk full?")
    return folder / FILE_NAME


def make_spec(model: TdtModel, chosen: SingleProfile, grid: ShapeGrid, onnx: Path) -> EngineSpec:
    """What to build: a profile of the engine for each profile of the grid, any batch in each."""
    most = grid.batches[-1]
    batch = (1, min(chosen.opt_batch, most), most)
    return EngineSpec(
        onnx=str(onnx),
        onnx_sha256=hash_onnx(onnx),
        bins=model.feature_bins,
        precision="fp8" if chosen.precision == "fp8" else PRECISIONS[model.dtype],
        profiles=tuple(ShapeRange(batch, (p.min, p.opt, p.max)) for p in grid.profiles),
        optimization_level=chosen.optimization_level,
        workspace_bytes=chosen.workspace_mib << 20,
        tactic_sources=chosen.tactic_sources,
        runtime=versions.choose(chosen.runtime),
    )


def _assemble(
    model: TdtModel,
    chosen: SingleProfile,
    grid: ShapeGrid,
    built: BuiltEngine,
    runtime: versions.Runtime,
    progress: BuildProgress,
) -> BucketedEncoder:
    before = DeviceMemory.read(model.device)
    itself = chosen.cuda_graphs and chosen.captured_by == "runtime" and grid.pad
    runner = EngineRunner(built.plan, model.feature_bins, runtime, grid.pad, itself)
    inputs = StaticInputs(grid, model.feature_bins, model.device, torch.int32)
    calls = EngineCalls(model, runner, grid, inputs)
    if grid.pad:
        calls.prepare("runtime" if itself else "harness" if chosen.cuda_graphs else None, progress)
        runner.keep_kernels()
    added = DeviceMemory.read(model.device).since(before)
    memory = {"input_buffers_bytes": inputs.device_bytes, **runner.memory, **added}

    def describe() -> Mapping[str, Any]:
        return {
            **built.note(),
            "padding": chosen.padding,
            "cuda_graphs": itself or runner.graphs_captured > 0,
            "captured_by": "runtime" if itself else "harness",
            "captures": calls.captures_at_build,
            "captures_after_build": runner.graphs_captured - calls.captures_at_build,
            **runner.evidence(),
            "memory": memory,
        }

    return BucketedEncoder(
        model, grid, inputs, calls, describe, "float8" if chosen.precision == "fp8" else None
    )


@dataclass(frozen=True)
class EngineCall:
    """One shape: a context that is bound to it, and what was captured from that."""

    runner: EngineRunner
    context: Any
    captured: CapturedCall | None
    states: torch.Tensor
    lengths: torch.Tensor

    def run(self) -> None:
        """On torch's current stream, in order with the copies before and after it."""
        stream = torch.cuda.current_stream().cuda_stream if self.states.is_cuda else self.runner.stream
        if self.captured is None:
            self.runner.enqueue(self.context, stream)
        else:
            self.runner.replay(self.captured, stream)


class EngineCalls:
    """Slots to calls. Outputs of all shapes share one buffer: the encoder copies them out."""

    def __init__(self, model: TdtModel, runner: EngineRunner, grid: ShapeGrid, inputs: StaticInputs) -> None:
        encoder: Any = model.encoder
        self._runner, self._grid, self._inputs = runner, grid, inputs
        self._width, self._factor = int(encoder.d_model), int(encoder.subsampling_factor)
        numbers = max(slot.batch * self._frames(slot) for slot in grid.slots()) * self._width
        self._states = torch.zeros(numbers, dtype=model.dtype, device=model.device)
        self._lengths = torch.zeros(grid.batches[-1], dtype=torch.int32, device=model.device)
        self._synchronize = model.synchronize
        self._prepared: dict[Slot, Call] = {}
        self.captures_at_build = 0

    def prepare(self, captured_by: Literal["harness", "runtime"] | None, progress: BuildProgress) -> None:
        """Every shape of the grid. Shapes of one profile share its context unless graphs hold theirs."""
        self._synchronize()
        slots = self._grid.slots() if captured_by else []
        for index, slot in enumerate(slots):
            progress("capturing the engine's shapes", index, len(slots))
            context = self._runner.context(slot.profile)
            call = self._bound(slot, context)
            if captured_by == "harness":
                call = replace(call, captured=self._runner.capture(context))
            else:
                self._runner.run_once(context)
            self._prepared[slot] = call
        self.captures_at_build = self._runner.graphs_captured

    def __call__(self, slot: Slot) -> Call:
        """The prepared call, or the profile's context set to this shape now."""
        prepared = self._prepared.get(slot)
        return prepared or self._bound(slot, self._runner.shared_context(slot.profile))

    def _bound(self, slot: Slot, context: Any) -> EngineCall:
        features, lengths = self._inputs.views(slot)
        frames = self._frames(slot)
        states = self._states[: slot.batch * frames * self._width].view(slot.batch, frames, self._width)
        found = self._lengths[: slot.batch]
        tensors = dict(zip((*INPUTS, *OUTPUTS), (features, lengths, states, found), strict=True))
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        self._runner.bind(context, Shape(slot.batch, slot.frames, slot.profile), addresses)
        return EngineCall(self._runner, context, None, states, found)

    def _frames(self, slot: Slot) -> int:
        return output_frames(slot.frames, self._factor)
