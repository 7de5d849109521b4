"""The encoder as CUDA graphs, one for each planned bucket and batch size, with or without inductor.

``backend: fused`` compiles our own Conformer layers over NeMo's weights before capture, once for all
lengths; ``backend: inductor`` compiles NeMo's layers, for each shape. ``backend: graph`` captures NeMo's
kernels as they are: the GPU's work is unchanged and the host's launches are gone. ``backend: best`` tries
the ``candidates`` and keeps the fastest of each shape. All graphs share one memory pool: they never run at
the same time, so what one needs during its run the next may use.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from harness.errors import HarnessError, UnavailableError, UsageError
from variants.encoder.bucketed import BucketedEncoder, Call, StaticInputs
from variants.encoder.eager import extend_positions
from variants.encoder.fused import FusedConformer, require_whole
from variants.encoder.memory import DeviceMemory, module_bytes
from variants.encoder.options import Compiled
from variants.encoder.planner import AffineCost, CostCurve, MeasuredCost, seconds_to_frames
from variants.encoder.shapes import ShapeGrid, Slot, make_grid, output_frames
from variants.encoder.subsampling import subsample, subsampling_weights

if TYPE_CHECKING:
    from harness.protocols import BuildProgress, ShapePlan
    from variants.models.types import TdtModel

NAME = "compiled"
Forward = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""float32 features ``[B, F, T]`` and lengths ``[B]`` to states ``[B, T', D]`` and lengths ``[B]``."""

_WARM_UP_RUNS = (
    3  # cuBLAS and cuDNN choose kernels and allocate workspaces in the first, never during capture
)
_TIMED_RUNS = 20
_COST_SHARES = (0.02, 0.1, 0.3, 0.6, 1.0)  # of the longest length, at which a cost curve is measured


class Recorder(Protocol):
    """Prepares one shape: runs ``forward`` on the static inputs now and makes it repeatable."""

    @property
    def captures(self) -> int:
        """How often it has."""
        ...

    def record(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> Call: ...

    def apart(self) -> Recorder:
        """Another one whose memory is freed with what it recorded, for calls that are only tried."""
        ...


def build(model: TdtModel, options: Compiled, plan: ShapePlan) -> BucketedEncoder:
    """Plan buckets, capture every shape, hold each to the eager encoder.

    Raises ``UnavailableError`` without a GPU, ``InvalidMeasurementError`` naming a bucket that differs.
    """
    if model.device.type != "cuda":
        raise UnavailableError(
            f"encoder={NAME} captures CUDA graphs and the model is on {model.device}: use a GPU"
        )
    encoder = build_with(model, options, plan, GraphRecorder(model.device))
    encoder.verify(NAME, options.token_agreement, plan.progress)
    return encoder


def build_with(model: TdtModel, chosen: Compiled, plan: ShapePlan, recorder: Recorder) -> BucketedEncoder:
    """``build`` over any recorder, not verified yet."""
    longest_s = chosen.longest_s
    extend_positions(model, max((longest_s, *plan.buckets_s, *plan.segment_lengths_s)) + 1.0)
    before = DeviceMemory.read(model.device)
    cost = _cost(model, chosen, recorder, plan.progress)
    grid = make_grid(
        plan,
        k=chosen.buckets,
        longest_s=longest_s,
        hop_s=model.hop_s,
        cost=cost,
        batches=_batches(chosen.batches, plan.max_batch),
    )
    inputs = StaticInputs(grid, model.feature_bins, model.device)
    captured = _capture(model, chosen, grid, inputs, recorder, plan.progress)
    after = DeviceMemory.read(model.device)
    memory = {
        "weights_bytes": module_bytes(model.encoder),
        "input_buffers_bytes": inputs.device_bytes,
        **after.since(before),
    }

    def describe() -> Mapping[str, Any]:
        return {"backend": chosen.backend, "mode": chosen.mode, **captured.evidence(), "memory": memory}

    return BucketedEncoder(model, grid, inputs, captured.calls.__getitem__, describe)


# ---------------------------------------------------------------- capture


class GraphCall:
    """A captured graph and the tensors that it writes.

    A graph knows addresses, not tensors: ``forward`` is kept because what it reads beside the model's
    weights (folded convolutions, projected positions) has to live as long as the graph.
    """

    def __init__(
        self, graph: torch.cuda.CUDAGraph, forward: Forward, states: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        self._graph, self._forward, self.states, self.lengths = graph, forward, states, lengths

    def run(self) -> None:
        self._graph.replay()


class GraphRecorder:
    """Captures into one memory pool, and counts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._captures = 0

    @property
    def captures(self) -> int:
        return self._captures

    def apart(self) -> GraphRecorder:
        return GraphRecorder(self._device)

    @torch.inference_mode()
    def record(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> GraphCall:
        """Raises ``HarnessError`` where inductor fails or the encoder does what a graph cannot hold."""
        graph = torch.cuda.CUDAGraph()
        try:
            self._warm_up(forward, features, lengths)
            # Only this thread's calls belong to the graph; a monitor beside it may go on.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                states, state_lengths = forward(features, lengths)
        except RuntimeError as error:
            shape = "x".join(map(str, features.shape))
            raise HarnessError(f"encoder={NAME}: capture of {shape} failed: {error}") from error
        self._captures += 1
        return GraphCall(graph, forward, states, state_lengths)

    def _warm_up(self, forward: Forward, features: torch.Tensor, lengths: torch.Tensor) -> None:
        """On a stream of its own, as capture needs it; compiles where inductor is asked for."""
        main = torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                forward(features, lengths)
        main.wait_stream(side)


@dataclass(frozen=True)
class Captured:
    """Prepared calls, and which backend each shape got."""

    calls: Mapping[Slot, Call]
    backends: Mapping[Slot, str]
    seconds: Mapping[Slot, Mapping[str, float]]
    """With ``best``: median seconds of a run, by backend, tried in turns."""
    recorder: Recorder
    captures: int
    positions: torch.Tensor
    """The table of positions whose address the graphs hold: NeMo replaces it for longer audio."""

    def evidence(self) -> Mapping[str, Any]:
        return {
            "captures": self.captures,
            "captures_after_build": self.recorder.captures - self.captures,
            "backends": {str(slot): backend for slot, backend in self.backends.items()},
            "median_s": {str(slot): dict(times) for slot, times in self.seconds.items()},
        }


def _capture(
    model: TdtModel,
    chosen: Compiled,
    grid: ShapeGrid,
    inputs: StaticInputs,
    recorder: Recorder,
    progress: BuildProgress,
) -> Captured:
    encoder: Any = model.encoder
    calls: dict[Slot, Call] = {}
    kept: dict[Slot, str] = {}
    seconds: dict[Slot, Mapping[str, float]] = {}
    slots = grid.slots()
    if "fused" in chosen.backends:
        require_whole(encoder, slots[0].batch, slots[0].frames)
    with compilations(len(slots)):
        forwards = {backend: _forward(model, backend, chosen, grid.longest) for backend in chosen.backends}
        for index, slot in enumerate(slots):
            progress(f"compiling and capturing, shape {slot}", index, len(slots))
            kept[slot] = next(iter(forwards))
            if len(forwards) > 1:
                seconds[slot] = _tried(forwards, inputs.views(slot), recorder.apart(), model.synchronize)
                kept[slot] = min(forwards, key=seconds[slot].__getitem__)
            calls[slot] = recorder.record(forwards[kept[slot]], *inputs.views(slot))
    return Captured(calls, kept, seconds, recorder, recorder.captures, encoder.pos_enc.pe)


def _tried(
    forwards: Mapping[str, Forward],
    views: tuple[torch.Tensor, torch.Tensor],
    recorder: Recorder,
    synchronize: Callable[[], None],
) -> Mapping[str, float]:
    """Median seconds of each forward on one shape; what was recorded for it is gone afterwards."""
    calls = {name: recorder.record(forward, *views) for name, forward in forwards.items()}
    return median_run_s(calls, synchronize)


def _forward(model: TdtModel, backend: str, chosen: Compiled, longest: int) -> Forward:
    """The encoder without NeMo's type checks and its growing table, as a graph can hold it, for at most
    ``longest`` feature frames."""
    if backend in ("fused", "kernels"):
        return _fused(model, chosen, longest, **(_own_kernels(model) if backend == "kernels" else {}))
    mode = chosen.mode
    encoder: Any = model.encoder if backend == "graph" else with_compiled_layers(model.encoder, mode=mode)

    def forward(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, state_lengths = encoder.forward_internal(features.to(model.dtype), lengths)  # [B, D, T']
        return states.transpose(1, 2), state_lengths

    return forward


def _fused(model: TdtModel, chosen: Compiled, longest: int, **parts: Any) -> Forward:
    encoder: Any = model.encoder
    any_length, mode = chosen.any_length, chosen.mode
    compile = partial(torch.compile, dynamic=None if any_length else False, fullgraph=True, mode=mode)
    longest_states = output_frames(longest, encoder.subsampling_factor)
    fused = FusedConformer(encoder, longest_states, compile, any_length, **parts)

    def forward(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return fused(features.to(model.dtype), lengths)

    return forward


def _own_kernels(model: TdtModel) -> dict[str, Any]:
    """Parts of ``FusedConformer`` in the place of its own."""
    # Triton comes with PyTorch's builds for CUDA alone.
    from variants.encoder import first_convolutions, relative_attention

    encoder: Any = model.encoder
    weights = subsampling_weights(encoder.pre_encode)
    begun = partial(subsample, weights=weights, begin=first_convolutions.begin_subsampling)
    return {"mix": relative_attention.attend, "subsample": begun}


def with_compiled_layers(encoder: Any, *, mode: str | None, backend: str = "inductor") -> Any:
    """A second encoder over the same weights. Layers are compiled one by one: they are alike, so each
    shape is compiled once, not once per layer. Subsampling and masks stay as NeMo runs them."""
    twin = copy.copy(encoder)
    twin._modules = dict(encoder._modules)
    layers: Any = encoder.layers
    compiled: list[Any] = [
        torch.compile(layer, dynamic=False, fullgraph=True, mode=mode, backend=backend) for layer in layers
    ]
    twin.layers = torch.nn.ModuleList(compiled)
    return twin.eval()


@contextmanager
def compilations(shapes: int) -> Iterator[None]:
    """Dynamo and inductor, as ``shapes`` compilations need them, and gone afterwards.

    Past its limit of compilations (8 for each function) Dynamo runs eagerly without a word; here it may
    compile every shape, and running eagerly is an error. The limit holds for a function in the whole
    process, so that shapes of encoders built before count: it leaves room for a dozen like this one.
    Inductor's worker processes would idle on, with gigabytes that a run would count as its own.
    """
    import torch._dynamo.config as config

    limits: dict[str, Any] = {
        "recompile_limit": 12 * (shapes + 8),
        "accumulated_recompile_limit": 64 * 12 * (shapes + 8),
        "fail_on_recompile_limit_hit": True,
    }
    try:
        with config.patch(limits):
            yield
    finally:
        workers = sys.modules.get("torch._inductor.async_compile")
        if workers is not None:
            workers.shutdown_compile_workers()


def median_run_s(
    calls: Mapping[str, Call], synchronize: Callable[[], None], runs: int = _TIMED_RUNS
) -> dict[str, float]:
    """Median wall seconds of ``run`` until the device has finished, by name; the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(runs + 2):
        for name in names if turn % 2 else reversed(names):
            synchronize()
            start = time.perf_counter()
            calls[name].run()
            synchronize()
            times[name].append(time.perf_counter() - start)
    # The lower of two middle runs: the nearest rank, a time that happened.
    return {name: statistics.median_low(taken[2:]) for name, taken in times.items()}


# ---------------------------------------------------------------- options


def _cost(model: TdtModel, chosen: Compiled, recorder: Recorder, progress: BuildProgress) -> CostCurve:
    """The model of a cost curve, or one measured here: five lengths at batch 1, in what will run them, or
    in the first candidate."""
    if chosen.cost == "modelled":
        return AffineCost()
    longest = seconds_to_frames(chosen.longest_s, model.hop_s)
    backend, *_ = chosen.backends
    points = []
    with compilations(len(_COST_SHARES)):
        forward = _forward(model, backend, chosen, longest)
        for index, part in enumerate(_COST_SHARES):
            progress("measuring what lengths cost", index, len(_COST_SHARES))
            frames = max(8, round(longest * part))
            features = torch.zeros((1, model.feature_bins, frames), device=model.device)
            lengths = torch.full((1,), frames, dtype=torch.int64, device=model.device)
            taken = _tried({backend: forward}, (features, lengths), recorder.apart(), model.synchronize)
            points.append((float(frames), taken[backend]))
    return MeasuredCost(tuple(points))


def _batches(value: Any, max_batch: int) -> tuple[int, ...]:
    if value is None:
        return ()
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not sizes or not all(isinstance(size, int) and 1 <= size <= max_batch for size in sizes):
        raise UsageError(
            f"encoder.options.batches={value}: {NAME} takes null or sizes from 1 to "
            f"model.max_batch={max_batch}"
        )
    return sizes
