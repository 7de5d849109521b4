"""What TensorRT's releases from 8.6 to 11 call differently. No other module asks for a version.

Sources: TensorRT's Python API reference of each release and its guides "Migrating from TensorRT 8.x to 10.x"
and "10.x to 11.x" (https://docs.nvidia.com/deeplearning/tensorrt).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from harness.errors import UnavailableError

OLDEST = (8, 6)


def load() -> Any:
    """The module ``tensorrt``. Raises ``UnavailableError`` where it is missing or too old."""
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise UnavailableError(
            f"the Python package 'tensorrt' cannot be imported ({error}): pip install '.[tensorrt]'"
        ) from error
    if version(trt) < OLDEST:
        raise UnavailableError(f"tensorrt {trt.__version__} is older than 8.6: install a newer one")
    return trt


def version(trt: Any) -> tuple[int, int]:
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


def create_network(trt: Any, builder: Any) -> Any:
    """An empty network. From 10 on it is strongly typed: the ONNX graph alone says the precision of
    each layer. 11 knows nothing else; 8.6 needs to be told that the batch is a dimension."""
    flags = trt.NetworkDefinitionCreationFlag
    chosen = 0
    if version(trt) < (10, 0):
        chosen |= 1 << int(flags.EXPLICIT_BATCH)
    elif hasattr(flags, "STRONGLY_TYPED"):
        chosen |= 1 << int(flags.STRONGLY_TYPED)
    return builder.create_network(chosen)


def allow_precision(trt: Any, config: Any, precision: str) -> None:
    """Where types are weak (8.6, 9), half tensors of the graph need the builder's flag.

    Raises ``UnavailableError`` for a number type that the release lacks.
    """
    if version(trt) >= (10, 0) or precision == "fp32":
        return
    flag = getattr(trt.BuilderFlag, precision.upper(), None)
    if flag is None:
        raise UnavailableError(
            f"tensorrt {trt.__version__} knows no {precision}: use model.precision=fp16, or TensorRT 10"
        )
    config.set_flag(flag)


def share_profiles(trt: Any, config: Any) -> None:
    """Let several contexts use one profile (one context for each captured shape). A preview feature of
    8.6 and 9, the rule from 10 on."""
    feature = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if feature is not None and version(trt) < (10, 0):
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


def watch(trt: Any, config: Any, report: Callable[[str, int, int], None]) -> bool:
    """Report ``(phase, step, steps)`` during the build. False where the release cannot."""
    base = getattr(trt, "IProgressMonitor", None)
    if base is None or not hasattr(config, "progress_monitor"):
        return False
    config.progress_monitor = _monitor(base, report)
    return True


def _monitor(base: Any, report: Callable[[str, int, int], None]) -> Any:
    class Monitor(base):  # type: ignore[misc]
        """Called from several of TensorRT's threads."""

        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self._steps.get(phase_name, 0))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            report(phase_name, steps, steps)

    return Monitor()


def create_context(trt: Any, engine: Any) -> Any:
    """An execution context without activation memory of its own; see ``give_memory``."""
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is not None:
        return engine.create_execution_context(strategies.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


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
