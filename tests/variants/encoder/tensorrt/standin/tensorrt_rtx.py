"""TensorRT-RTX's interface where it differs from TensorRT 10's; what contexts compile, they keep by shape."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import tensorrt
from tensorrt import *  # noqa: F403

__version__ = "1.7.1.116"

COMPILED: list[str] = []
"""By this process, for the tests."""


class ComputeCapability(Enum):
    SM89 = 89


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class CudaGraphStrategy(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Builder(tensorrt.Builder):
    def create_builder_config(self) -> Any:
        config = super().create_builder_config()
        config.num_compute_capabilities = 0
        config.set_compute_capability = lambda _capability, index: index < config.num_compute_capabilities
        return config


class RuntimeCache:
    def __init__(self) -> None:
        self.shapes: set[str] = set()

    def deserialize(self, content: bytes) -> bool:
        try:
            self.shapes |= set(json.loads(content))
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.shapes)).encode()

    def compile(self, shape: str) -> None:
        if shape not in self.shapes:
            COMPILED.append(shape)
            self.shapes.add(shape)


class RuntimeConfig:
    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.strategy: Any = None
        self._cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> RuntimeCache:
        return self._cache


class Context(tensorrt.Context):
    def __init__(self, engine: Engine, config: RuntimeConfig) -> None:
        super().__init__(engine, needs_memory=True)
        self.config, self._ran = config, False

    def execute_async_v3(self, stream: int) -> bool:
        if self.config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER":
            self.config.get_runtime_cache().compile(f"{self._profile} {sorted(self._shapes.items())}")
        self._ran = True
        return super().execute_async_v3(stream)

    def is_stream_capturable(self, _stream: int) -> bool:
        return self._ran


class Engine(tensorrt.Engine):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig) -> Context:
        return Context(self, config)


class Runtime(tensorrt.Runtime):
    def deserialize_cuda_engine(self, content: bytes) -> Any:
        found = super().deserialize_cuda_engine(content)
        return found and Engine(json.loads(content))
