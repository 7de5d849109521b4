"""What the processes of a service do with an item: part of the front end, or inference."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from harness.errors import RequestError, UsageError
from harness.protocols import Allocate, Audio, Engine, Evidence, Frontend, SegmentFeatures
from harness.spans import SpanRecorder, now_ns
from variants.topology.item import Item
from variants.topology.streams import StreamTable, describe
from variants.topology.types import FEATURE_HOP_S

Stage = tuple[str, Callable[[Any], Any]]


class Work(Protocol):
    def __call__(self, item: Item, recorder: SpanRecorder) -> Item:
        """The item for the next process. Arrays in it may be those of ``item``."""
        ...

    def evidence(self) -> Evidence: ...


class FrontendWork:
    """Some consecutive stages of the front end. Live audio passes as it is: it is features' own affair.

    A stage with a parameter ``allocate`` is given the link's memory for its output: what it writes
    there is read by the next process where it lies.
    """

    def __init__(self, frontend: Frontend, names: Sequence[str] | None, allocate: Allocate) -> None:
        stages = list(frontend.stages)
        self._first, self._last = stages[0][0], stages[-1][0]
        chosen = [stage for stage in stages if names is None or stage[0] in names]
        self._stages = [*chosen[:-1], _into(chosen[-1], allocate)] if chosen else []
        self._requests = 0
        self._container_bytes_copied = 0

    @property
    def stages(self) -> list[str]:
        return [name for name, _ in self._stages]

    def __call__(self, item: Item, recorder: SpanRecorder) -> Item:
        if item.kind != "transcribe" or item.error is not None:
            return item
        self._requests += 1
        value = item.value
        try:
            for name, stage in self._stages:
                with recorder.span(name):
                    value = stage(self._to_bytes(value) if name == self._first else value)
                if isinstance(value, Audio) and value.resampled_ns:
                    recorder.divide_last("resample", value.resampled_ns)
        except Exception as failure:  # the process outlives whatever one request does to it
            return item._replace(value=None, error=describe(failure))
        if self._stages and self._stages[-1][0] == self._last:
            return item._replace(value=value, segments=len(value), speech_s=speech_seconds(value))
        return item._replace(value=value)

    def evidence(self) -> Evidence:
        return {
            "stages": self.stages,
            "requests": self._requests,
            "container_bytes_copied": self._container_bytes_copied,
        }

    def _to_bytes(self, payload: np.ndarray) -> bytes:
        """The container as the decoder wants it: one counted copy of what is still compressed."""
        self._container_bytes_copied += payload.nbytes
        return payload.tobytes()


def _into(stage: Stage, allocate: Allocate) -> Stage:
    name, function = stage
    memory: dict[str, Any] = {"allocate": allocate}
    try:
        takes_memory = "allocate" in inspect.signature(function).parameters
    except ValueError:  # written in C, without a signature
        takes_memory = False
    return (name, partial(function, **memory)) if takes_memory else stage


def speech_seconds(segments: Sequence[SegmentFeatures]) -> float:
    return float(sum(segment.values.shape[-1] for segment in segments) * FEATURE_HOP_S)


class InferenceWork:
    """The engine: features to transcripts, live audio to text."""

    def __init__(self, engine: Engine, gc: Mapping[str, Any]) -> None:
        self._engine = engine
        self._streams = StreamTable(engine)
        self._gc_policy = _gc_policy(gc)
        self._requests = 0

    def __call__(self, item: Item, recorder: SpanRecorder) -> Item:
        started_ns = item.started_ns or now_ns()
        value, error = None, item.error
        if error is None:
            try:
                value = self._answer(item, recorder)
            except Exception as failure:  # the process outlives whatever one request does to it
                error = describe(failure)
        return item._replace(value=value, error=error, started_ns=started_ns, finished_ns=now_ns())

    def evidence(self) -> Evidence:
        collector = {} if self._gc_policy is None else dict(self._gc_policy.evidence())
        return {
            "requests": self._requests,
            "stream_jobs": self._streams.jobs,
            "engine": dict(self._engine.evidence()),
            **collector,
        }

    def _answer(self, item: Item, recorder: SpanRecorder) -> Any:
        if item.kind == "transcribe":
            self._requests += 1
            return self._engine.transcribe(item.value, recorder)
        if item.kind == "push":
            # A stream may keep what it is given; memory that is lent it must not.
            return self._streams.work("push", item.stream_id, item.value.copy())
        if item.kind in ("open", "commit", "abandon"):
            return self._streams.work(item.kind, item.stream_id, None)
        if item.kind == "warm_up":
            return self._engine.warm_up(item.value)
        raise RequestError(f"an engine cannot do {item.kind!r}")


def _gc_policy(gc: Mapping[str, Any]) -> Any:
    """The collector's policy, in force in this process from here on; None where none is configured."""
    name = gc.get("name")
    if name is None:
        return None
    if not str(name).isidentifier():
        raise UsageError(f"gc={name} does not exist; the choices are the leaves of conf/gc")
    policy = importlib.import_module(f"variants.gc.{name}").build(dict(gc.get("options") or {}))
    policy.after_startup()
    return policy
