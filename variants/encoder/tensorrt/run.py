"""Runs an engine: contexts made once, shapes prepared ahead, work replayed as CUDA graphs where allowed.

Contexts share one block of activation memory and the engine's one copy of the weights, which is right as
long as they run one after another. Without CUDA graphs there is one context for each profile, and a call
sets its shape. With them there is one for each prepared shape, because a captured graph holds the state of
its context. Either way a change of profile is the choice of another context: nothing waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError, UnavailableError
from variants.content_cache import ContentCache
from variants.cuda.device import Gpu
from variants.encoder.tensorrt import versions
from variants.encoder.tensorrt.logs import Messages, make_logger
from variants.encoder.tensorrt.spec import INPUTS

KERNELS_NAME = "kernels.bin"
"""Beside the plan. It grows with use, so it is no part of what was sealed with the engine."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows and feature frames of one call, and the profile that serves it."""

    batch: int
    frames: int
    profile: int


@dataclass(frozen=True, slots=True)
class CapturedCall:
    """An executable graph, and the context whose kernels and memory it runs: TensorRT frees them with the
    context, and a graph without them ends the process."""

    graph: Any
    context: Any


class EngineRunner:
    """An engine on the current device. Not safe for concurrent calls: contexts share their memory."""

    def __init__(
        self,
        plan: Path,
        bins: int,
        runtime: versions.Runtime = "tensorrt",
        planned: bool = True,
        captures_itself: bool = False,
    ) -> None:
        """``planned`` and ``captures_itself``: see ``versions.context_settings``. Raises ``UnavailableError``
        for an engine that this TensorRT or this GPU cannot run."""
        self._trt = versions.load(runtime)
        self.gpu = Gpu()
        self._bins = bins
        self._messages = Messages()
        self._runtime = self._trt.Runtime(make_logger(self._trt, self._messages))
        content = plan.read_bytes()
        before = self.gpu.memory_used()
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise UnavailableError(
                f"{plan}: {versions.name(self._trt)} cannot load it: {self._messages.explain()}; "
                "remove the file to build it anew"
            )
        self.memory = {
            "weights_bytes": versions.weights_bytes(self.engine, len(content)),
            "engine_bytes": self.gpu.memory_used() - before,
            "activations_bytes": versions.activation_bytes(self.engine),
        }
        self._kernels = plan.with_name(KERNELS_NAME)
        kernels = self._kernels.read_bytes() if self._kernels.is_file() else b""
        self._settings = versions.context_settings(self._trt, self.engine, planned, captures_itself, kernels)
        self._activations = self.gpu.allocate(self.memory["activations_bytes"])
        self.stream = self.gpu.create_stream()
        self.contexts_created = 0
        self.graphs_captured = 0
        self._by_profile: dict[int, Any] = {}

    @property
    def profiles(self) -> int:
        return int(self.engine.num_optimization_profiles)

    def output_type(self, name: str) -> np.dtype[Any]:
        """Number type of an output. NumPy has no bfloat16: ``to_float32`` reads its bits."""
        found = str(self.engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]
        known = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "INT32": np.int32}
        if found not in known:
            raise HarnessError(f"the engine's output {name} is {found}; export it in fp32, fp16 or bf16")
        return np.dtype(known[found])

    def context(self, profile: int) -> Any:
        """A new context on ``profile``; the profile stays with it."""
        context = versions.create_context(self.engine, self._settings)
        if context is None:
            raise HarnessError(f"TensorRT could not make a context: {self._messages.explain()}")
        versions.give_memory(context, self._activations, self.memory["activations_bytes"])
        if not context.set_optimization_profile_async(profile, self.stream):
            raise HarnessError(f"TensorRT refuses profile {profile}: {self._messages.explain()}")
        self.gpu.wait(self.stream)
        self.contexts_created += 1
        return context

    def shared_context(self, profile: int) -> Any:
        """The one context of ``profile`` for calls that set their shape each time."""
        if profile not in self._by_profile:
            self._by_profile[profile] = self.context(profile)
        return self._by_profile[profile]

    def bind(self, context: Any, shape: Shape, addresses: Mapping[str, int]) -> None:
        """Set the shape of a call and where its tensors lie."""
        features, lengths = INPUTS
        accepted = context.set_input_shape(features, (shape.batch, self._bins, shape.frames))
        accepted &= context.set_input_shape(lengths, (shape.batch,))
        for name, address in addresses.items():
            accepted &= context.set_tensor_address(name, address)
        if not accepted:
            raise HarnessError(
                f"TensorRT refuses {shape.batch}x{shape.frames} on profile {shape.profile}: "
                f"{self._messages.explain()}"
            )

    def enqueue(self, context: Any, stream: int) -> None:
        """Raises ``HarnessError`` with the logger's words where the launch fails."""
        if not context.execute_async_v3(stream):
            raise HarnessError(f"TensorRT could not run: {self._messages.explain()}")

    def capture(self, context: Any) -> CapturedCall:
        """The bound call as a graph."""
        self.run_once(context)
        if not versions.may_be_captured(context, self.stream):
            raise HarnessError(
                "TensorRT says that this call cannot be captured: use encoder.options.cuda_graphs=false"
            )
        self.gpu.begin_capture(self.stream)
        try:
            self.enqueue(context, self.stream)
        finally:
            graph = self.gpu.end_capture(self.stream)
        self.graphs_captured += 1
        return CapturedCall(graph, context)

    def run_once(self, context: Any) -> None:
        """Lets TensorRT do what it does once for a new shape; waits."""
        self.enqueue(context, self.stream)
        self.gpu.wait(self.stream)

    def keep_kernels(self) -> None:
        """What TensorRT-RTX compiled for this GPU, beside the engine, for the next process."""
        found = versions.compiled_kernels(self._trt, self._settings)
        if found:
            ContentCache(self._kernels.parent).replace_file(self._kernels.name, found)

    def replay(self, captured: CapturedCall, stream: int) -> None:
        self.gpu.launch(captured.graph, stream)

    def run_host(
        self, features: np.ndarray, lengths: np.ndarray, profile: int, outputs: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray]:
        """One call on host arrays, for processes without torch: ``[B, F, T]`` and ``[B]`` to the named
        outputs, whose shapes the caller knows. Allocates and waits: not for timing."""
        inputs = (np.ascontiguousarray(features, np.float32), np.ascontiguousarray(lengths, np.int32))
        found = {name: np.empty(shape, self.output_type(name)) for name, shape in outputs.items()}
        arrays = {**dict(zip(INPUTS, inputs, strict=True)), **found}
        addresses = {name: self.gpu.allocate(array.nbytes) for name, array in arrays.items()}
        try:
            for name in INPUTS:
                self.gpu.upload(arrays[name], addresses[name], self.stream)
            context = self.shared_context(profile)
            self.bind(context, Shape(len(features), features.shape[2], profile), addresses)
            self.enqueue(context, self.stream)
            for name, array in found.items():
                self.gpu.download(addresses[name], array, self.stream)
            self.gpu.wait(self.stream)
        finally:
            for address in addresses.values():
                self.gpu.free(address)
        return found

    def layers(self) -> Any:
        """What TensorRT made of the graph: each profile's layers, with formats and kernels ("TacticName"), as
        its engine inspector tells them; where it tells no valid JSON, its words as they are."""
        inspector = self.engine.create_engine_inspector()
        text: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        try:
            return json.loads(text, strict=False)  # 8.6.0 leaves control characters in names unescaped
        except json.JSONDecodeError:
            return text  # a listing beside the measurement is no reason to end it

    def evidence(self) -> dict[str, Any]:
        return {
            "runtime": versions.name(self._trt),
            "tensorrt": str(self._trt.__version__),
            "contexts_created": self.contexts_created,
            "graphs_captured": self.graphs_captured,
            "warnings": list(self._messages.warnings),
        }


def to_float32(values: np.ndarray) -> np.ndarray:
    """States of any engine as float32; 16-bit integers are the bits of bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
