"""TensorRT 10's interface over ONNX Runtime; an engine is the graph's path and its profiles as JSON."""

from __future__ import annotations

import ctypes
import json
import weakref
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "10.3.0"


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(Enum):
    WORKSPACE = 0


class TacticSource(IntEnum):
    EDGE_MASK_CONVOLUTIONS = 3


class ProfilingVerbosity(Enum):
    DETAILED = 2


class LayerInformationFormat(Enum):
    JSON = 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class Severity(Enum):
    ERROR = 1


class ILogger:
    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class Network:
    def __init__(self, flags: int) -> None:
        self.strongly_typed = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.path = ""


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._logger = network, logger

    def parse_from_file(self, path: str) -> bool:
        import onnx

        try:
            onnx.checker.check_model(path)
        except Exception:
            return False
        self._network.path = path
        return True

    def get_error(self, _index: int) -> str:
        return "the graph is not valid"


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = [list(low), list(best), list(high)]


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"t"


class BuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self.profiling_verbosity: ProfilingVerbosity | None = None
        self.profiles: list[Profile] = []
        self._timings: Any = None

    def set_memory_pool_limit(self, _pool: Any, _size: int) -> None:
        pass

    def set_tactic_sources(self, _sources: int) -> None:
        pass

    def add_optimization_profile(self, profile: Profile) -> int:
        low, best, high = map(np.array, profile.shapes["features"])
        if not ((low <= best) & (best <= high)).all():
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> None:  # noqa: ARG002
        self._timings = cache

    def get_timing_cache(self) -> TimingCache:
        return self._timings


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        if not network.strongly_typed:
            self._logger.log(Severity.ERROR, "weak types are not supported here")
            return None
        config.progress_monitor.phase_start("Building", None, 1)
        if not config.progress_monitor.step_complete("Building", 0):
            return None
        config.progress_monitor.phase_finish("Building")
        detailed = config.profiling_verbosity is ProfilingVerbosity.DETAILED
        plan = {"graph": network.path, "profiles": [p.shapes for p in config.profiles], "detailed": detailed}
        return json.dumps(plan).encode()


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        try:
            return Engine(json.loads(content))
        except ValueError:
            self._logger.log(Severity.ERROR, "magic tag does not match")
            return None


class Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        import onnxruntime

        self.profiles, self.detailed = plan["profiles"], plan["detailed"]
        options = onnxruntime.SessionOptions()  # as it is: rewriting moves e4m3 to where it has no operators
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(
            plan["graph"], options, providers=["CPUExecutionProvider"]
        )
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = 4096

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32"}
        found = next(output for output in self.session.get_outputs() if output.name == name)
        return SimpleNamespace(__str__=None) if found.type not in kinds else f"DataType.{kinds[found.type]}"

    def create_engine_inspector(self) -> Any:
        """Detailed engines tell their kernels."""
        layers = [
            {"Name": f"conv [profile {index}]", "TacticName": "a kernel\n"} if self.detailed else "conv"
            for index in range(self.num_optimization_profiles)
        ]
        told = json.dumps({"Layers": layers}).replace(r"\n", "\n")  # unescaped, as 8.6.0 writes it
        return SimpleNamespace(get_engine_information=lambda _format: told)

    def create_execution_context(self, strategy: Any) -> Context:
        return Context(self, needs_memory=strategy is ExecutionContextAllocationStrategy.USER_MANAGED)


class Context:
    def __init__(self, engine: Engine, needs_memory: bool) -> None:
        self._engine, self._needs_memory = engine, needs_memory
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, address: int, size: int) -> None:
        self._needs_memory = not (address and size >= self._engine.device_memory_size_v2)

    def set_optimization_profile_async(self, index: int, _stream: int) -> bool:
        self._profile = index
        self._shapes = {}
        return 0 <= index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile is None:
            return False
        low, _, high = self._engine.profiles[self._profile][name]
        inside = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        if inside:
            self._shapes[name] = tuple(shape)
        return inside

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        from cuda.bindings import runtime

        names = {"features", "lengths", "states", "state_lengths"}
        if self._needs_memory or set(self._shapes) != {"features", "lengths"} or names - set(self._addresses):
            return False
        shapes, addresses, here = dict(self._shapes), dict(self._addresses), weakref.ref(self)

        def work() -> None:
            context = here()
            if context is None:  # TensorRT itself ends the process
                raise MemoryError("a graph runs what its context has freed")
            context._compute(shapes, addresses)

        runtime.submit(stream, work)
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        inputs = {
            "features": _view(addresses["features"], shapes["features"], np.dtype(np.float32)),
            "lengths": _view(addresses["lengths"], shapes["lengths"], np.dtype(np.int32)),
        }
        outputs = [output.name for output in self._engine.session.get_outputs()]
        for name, value in zip(outputs, self._engine.session.run(None, inputs), strict=True):
            _view(addresses[name], value.shape, value.dtype)[...] = value


def _view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
