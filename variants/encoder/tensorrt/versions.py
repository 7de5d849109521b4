"""What TensorRT's releases from 8.6 to 11, and TensorRT-RTX, call differently. No other module asks which.

TensorRT-RTX builds for a compute capability, without a GPU and in seconds, and compiles the kernels where the
engine runs, for each shape: what it compiled is kept beside the engine, and there are no timings to keep.

Sources: TensorRT's Python API reference of each release and its guides "Migrating from TensorRT 8.x to 10.x"
and "10.x to 11.x" (https://docs.nvidia.com/deeplearning/tensorrt); TensorRT-RTX's "CPU-Only AOT" and "Working
with Runtime Cache" (https://docs.nvidia.com/deeplearning/tensorrt-rtx).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Literal

from harness.errors import UnavailableError
from variants.encoder.tensorrt.phases import Phases

Runtime = Literal["tensorrt", "tensorrt_rtx"]
Capability = tuple[int, int]
"""Compute capability of a GPU."""

_OLDEST: dict[Runtime, tuple[int, int]] = {"tensorrt": (8, 6), "tensorrt_rtx": (1, 7)}


def choose(runtime: Runtime | Literal["auto"]) -> Runtime:
    """``auto`` is TensorRT, or TensorRT-RTX where that alone is installed."""
    if runtime != "auto":
        return runtime
    only_rtx = importlib.util.find_spec("tensorrt") is None and importlib.util.find_spec("tensorrt_rtx")
    return "tensorrt_rtx" if only_rtx else "tensorrt"


def load(runtime: Runtime) -> Any:
    """The module of that name. Raises ``UnavailableError`` where it is missing or too old."""
    try:
        trt = importlib.import_module(runtime)
    except ImportError as error:
        extra = runtime.replace("_", "-")
        raise UnavailableError(
            f"the Python package {runtime!r} cannot be imported ({error}): pip install '.[{extra}]'"
        ) from error
    major, minor = _OLDEST[runtime]
    if version(trt) < (major, minor):
        raise UnavailableError(f"{name(trt)} is older than {major}.{minor}: install a newer one")
    return trt


def name(trt: Any) -> str:
    """With its version, for people."""
    return f"{'TensorRT-RTX' if is_rtx(trt) else 'TensorRT'} {trt.__version__}"


def is_rtx(trt: Any) -> bool:
    return bool(trt.__name__ == "tensorrt_rtx")


def version(trt: Any) -> tuple[int, int]:
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


def _types_strongly(trt: Any) -> bool:
    return is_rtx(trt) or version(trt) >= (10, 0)


def require_capability(trt: Any, gpu: Capability) -> None:
    """Raises ``UnavailableError`` for a GPU that no engine of this release runs on.

    TensorRT says so itself when it builds. TensorRT-RTX would build, and refuse the engine when it is loaded.
    """
    if not is_rtx(trt) or _member(trt, gpu) is not None:
        return
    known = sorted((int(m[2:-1]), int(m[-1])) for m in dir(trt.ComputeCapability) if m.startswith("SM"))
    raise UnavailableError(
        f"{name(trt)} makes no engine for compute capability {dotted(gpu)} (it does for "
        f"{', '.join(map(dotted, known))}): use encoder.options.runtime=tensorrt, or another GPU"
    )


def require_precision(trt: Any, gpu: Capability | None, precision: str) -> None:
    """Raises ``UnavailableError`` for FP8 where the release or the GPU has none; what a half-precision graph
    needs of a release, ``allow_precision`` says."""
    if precision != "fp8":
        return
    if not _types_strongly(trt):
        raise UnavailableError(f"{name(trt)} quantizes no graph of explicit types: fp8 needs TensorRT 10")
    if gpu is not None and gpu < (8, 9):
        raise UnavailableError(
            f"compute capability {dotted(gpu)} has no FP8, which begins with 8.9: use "
            "encoder.options.precision=model"
        )


def aim(trt: Any, config: Any, target: Capability) -> None:
    """Build for GPUs of that compute capability alone; TensorRT always builds for the GPU that is there."""
    require_capability(trt, target)
    if is_rtx(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(_member(trt, target), 0)


def _member(trt: Any, gpu: Capability) -> Any:
    return getattr(trt.ComputeCapability, f"SM{gpu[0]}{gpu[1]}", None)


def dotted(gpu: Capability) -> str:
    return f"{gpu[0]}.{gpu[1]}"


def keeps_timings(trt: Any) -> bool:
    """Whether a build measures kernels, so that a timing cache spares the next one work."""
    return not is_rtx(trt)


def create_network(trt: Any, builder: Any) -> Any:
    """An empty network. From 10 on it is strongly typed: the ONNX graph alone says the precision of
    each layer. 11 knows nothing else; 8.6 needs to be told that the batch is a dimension."""
    flags = trt.NetworkDefinitionCreationFlag
    chosen = 0
    if not _types_strongly(trt):
        chosen |= 1 << int(flags.EXPLICIT_BATCH)
    elif hasattr(flags, "STRONGLY_TYPED"):
        chosen |= 1 << int(flags.STRONGLY_TYPED)
    return builder.create_network(chosen)


def allow_precision(trt: Any, config: Any, precision: str) -> None:
    """Where types are weak (8.6, 9), half tensors of the graph need the builder's flag.

    Raises ``UnavailableError`` for a number type that the release lacks.
    """
    require_precision(trt, None, precision)
    if _types_strongly(trt) or precision == "fp32":
        return
    flag = getattr(trt.BuilderFlag, precision.upper(), None)
    if flag is None:
        raise UnavailableError(f"{name(trt)} knows no {precision}: use model.precision=fp16, or TensorRT 10")
    config.set_flag(flag)


def share_profiles(trt: Any, config: Any) -> None:
    """Let several contexts use one profile (one context for each captured shape). A preview feature of
    8.6 and 9, the rule from 10 on."""
    feature = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if feature is not None and not _types_strongly(trt):
        config.set_preview_feature(feature, True)


def set_tactic_sources(trt: Any, config: Any, names: tuple[str, ...] | None) -> None:
    """Restrict where kernels come from to ``names``; None leaves TensorRT's choice.

    8.6 takes kernels from cuBLAS and cuDNN by default; where those libraries are missing they have to
    be left out. Sources that a release no longer has are left out silently: it takes none from there.
    """
    if names is None:
        return
    chosen = 0
    for name in names:
        source = getattr(trt.TacticSource, name, None)
        if source is not None:
            chosen |= 1 << int(source)
    config.set_tactic_sources(chosen)


def watch(trt: Any, config: Any, phases: Phases, stopping: Callable[[], bool]) -> bool:
    """Tell ``phases`` how far the build is; end it soon after ``stopping``. False if it cannot."""
    base = getattr(trt, "IProgressMonitor", None)
    if base is None or not hasattr(config, "progress_monitor"):
        return False
    config.progress_monitor = _monitor(base, phases, stopping)
    return True


def _monitor(base: Any, phases: Phases, stopping: Callable[[], bool]) -> Any:
    class Monitor(base):  # type: ignore[misc]
        """Called from several of TensorRT's threads."""

        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step + 1)
            return not stopping()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def context_settings(trt: Any, engine: Any, planned: bool, captures_itself: bool, kernels: bytes) -> Any:
    """What every context of ``engine`` is made with; for TensorRT-RTX it holds the kernels that they compile.

    ``planned``: shapes are prepared before the first request, so each gets kernels of its own, compiled when
    it is first run. Otherwise kernels that serve every shape run: a compilation would be measured as the
    latency of the request that waits for it, or is served beside it. ``kernels`` are what an earlier process
    compiled; those of another GPU, driver or release are left aside and compiled anew.
    ``captures_itself``: in place of our graphs.
    """
    strategies: Any = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if not is_rtx(trt):
        return None if strategies is None else strategies.USER_MANAGED
    kinds, graphs = trt.DynamicShapesKernelSpecializationStrategy, trt.CudaGraphStrategy
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
    config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if planned else kinds.NONE
    config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if captures_itself else graphs.DISABLED
    cache = config.create_runtime_cache()
    if kernels:
        cache.deserialize(kernels)
    config.set_runtime_cache(cache)
    return config


def compiled_kernels(trt: Any, settings: Any) -> bytes:
    """What the contexts made with ``settings`` have compiled so far, for ``context_settings``."""
    return bytes(settings.get_runtime_cache().serialize()) if is_rtx(trt) else b""


def create_context(engine: Any, settings: Any) -> Any:
    """An execution context without activation memory of its own; see ``give_memory``."""
    if settings is None:  # 8.6
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(settings)


def may_be_captured(context: Any, stream: int) -> bool:
    """Whether a call of ``context``, which ran once before, may be captured as a CUDA graph on ``stream``."""
    asked = getattr(context, "is_stream_capturable", None)
    return asked is None or bool(asked(stream))


def activation_bytes(engine: Any) -> int:
    """Activation memory of the largest profile. ``device_memory_size`` is 32-bit-minded and gone in 11."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def give_memory(context: Any, address: int, size: int) -> None:
    """Let ``context`` keep its activations at ``address``."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def weights_bytes(engine: Any, serialized_bytes: int) -> int:
    """Device memory of the weights: what the release reports, else the plan's size, which they dominate."""
    size = getattr(engine, "streamable_weights_size", 0)
    return int(size) if size else serialized_bytes
