"""What the processes of a service are for: part of the front end, or inference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from harness.protocols import (
    Allocate,
    BuildProgress,
    Engine,
    Evidence,
    Frontend,
    Segment,
    Transcript,
    Work,
)
from harness.spans import SpanRecorder, now_ns
from variants import registry
from variants.frontend.stages import evidence_of, run_stage
from variants.serving.streams import describe
from variants.topology.item import Item

Stage = tuple[str, Callable[[Any], Any]]
PassOn = Callable[[Item], None]
"""Takes the item for the next process. Arrays in it may be those of the item that was taken."""


class Role(Protocol):
    @property
    def wants_work(self) -> bool:
        """Whether to look for another item before the next ``step``."""
        ...

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a ``step`` has something to do; None where it would not have."""
        ...

    def take(self, item: Item, recorder: SpanRecorder, pass_on: PassOn) -> None:
        """Begin with ``item``; ``pass_on`` is called once, now or in a later ``step``."""
        ...

    def step(self) -> None: ...

    def evidence(self) -> Evidence: ...


class FrontendRole:
    """Some consecutive stages of the front end. Live audio passes as it is: it is samples already.

    A stage with a parameter ``allocate`` is given the link's memory for its output: what it writes
    there is read by the next process where it lies.
    """

    wants_work, due_in_s = True, None

    def __init__(self, frontend: Frontend, names: Sequence[str] | None, allocate: Allocate) -> None:
        stages = list(frontend.stages)
        self._first, self._last = stages[0][0], stages[-1][0]
        chosen = [stage for stage in stages if names is None or stage[0] in names]
        self._chosen = chosen
        self._stages = [*chosen[:-1], _into(chosen[-1], allocate)] if chosen else []
        self._requests = 0
        self._container_bytes_copied = 0

    @property
    def stages(self) -> list[str]:
        return [name for name, _ in self._stages]

    def take(self, item: Item, recorder: SpanRecorder, pass_on: PassOn) -> None:
        pass_on(self._worked_on(item, recorder))

    def step(self) -> None:
        """Nothing is ever left to do."""

    def _worked_on(self, item: Item, recorder: SpanRecorder) -> Item:
        if item.kind != "transcribe" or item.error is not None:
            return item
        self._requests += 1
        value = item.value
        try:
            for name, stage in self._stages:
                given = self._to_bytes(value) if name == self._first else value
                value = run_stage(name, stage, given, recorder)
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
            **evidence_of(self._chosen),
        }

    def _to_bytes(self, payload: np.ndarray) -> bytes:
        """The container as the decoder wants it: one counted copy of what is still compressed."""
        self._container_bytes_copied += payload.nbytes
        return payload.tobytes()


def _into(stage: Stage, allocate: Allocate) -> Stage:
    name, function = stage
    return name, _given(function, "allocate", allocate)


def telling(make_engine: Callable[[], Engine], progress: BuildProgress) -> Callable[[], Engine]:
    """``make_engine``, which is told where to report what it builds if it has a parameter ``progress``."""
    return _given(make_engine, "progress", progress)


def _given(function: Callable[..., Any], name: str, value: Any) -> Callable[..., Any]:
    """``function`` with the named argument filled in, where it has it."""
    try:
        takes_it = name in inspect.signature(function).parameters
    except ValueError:  # written in C, without a signature
        takes_it = False
    return partial(function, **{name: value}) if takes_it else function


def speech_seconds(segments: Sequence[Segment]) -> float:
    return sum(len(each.samples) / each.sample_rate for each in segments)


def spoken(work: Work) -> tuple[int, float]:
    """Stretches of speech of a recording, and their seconds: as the engine found them, or as it was given."""
    if isinstance(work.result, Transcript) and work.result.bounds is not None:
        return len(work.result.bounds), sum(end - start for start, end in work.result.bounds)
    return len(work.segments), speech_seconds(work.segments)


class InferenceRole:
    """The engine: segments to transcripts, live audio to text."""

    def __init__(self, engine: Engine, gc: Mapping[str, Any]) -> None:
        self._engine = engine
        self._gc_policy = gc_policy(gc)

    @property
    def wants_work(self) -> bool:
        return self._engine.wants_work

    @property
    def due_in_s(self) -> float | None:
        return self._engine.due_in_s

    def take(self, item: Item, recorder: SpanRecorder, pass_on: PassOn) -> None:
        item = item._replace(started_ns=item.started_ns or now_ns())
        if item.kind == "batch":
            self._take_group(item, recorder, pass_on)
        elif item.error is not None:
            pass_on(item._replace(value=None, finished_ns=now_ns()))
        elif item.kind == "warm_up":
            pass_on(self._warmed_up(item))
        else:
            self._engine.submit(_work_of(item, recorder, lambda work: pass_on(_answered(item, work))))

    def _take_group(self, group: Item, recorder: SpanRecorder, pass_on: PassOn) -> None:
        """Chunks of live audio that came together are answered together."""
        answers: list[Item] = []

        def keep(answer: Item) -> None:
            answers.append(answer)
            if len(answers) == len(group.value):
                pass_on(group._replace(value=answers))

        for item in group.value:
            self.take(item, recorder, keep)

    def _warmed_up(self, item: Item) -> Item:
        try:
            self._engine.warm_up(item.value)
        except Exception as failure:  # told to whoever asked
            return item._replace(value=None, error=describe(failure), finished_ns=now_ns())
        return item._replace(value=None, finished_ns=now_ns())

    def step(self) -> None:
        self._engine.step()

    def evidence(self) -> Evidence:
        collector = {} if self._gc_policy is None else dict(self._gc_policy.evidence())
        return {"engine": dict(self._engine.evidence()), **collector}


def _work_of(item: Item, recorder: SpanRecorder, done: Callable[[Work], None]) -> Work:
    kind, stream_id = item.kind, item.stream_id
    if kind == "transcribe":
        return Work(kind, done, recorder, segments=item.value)
    if kind == "push":
        # A stream may keep what it is given; memory that is lent it must not.
        return Work(kind, done, recorder, stream_id=stream_id, samples=item.value.copy())
    if kind in ("open", "commit", "abandon"):
        return Work(kind, done, recorder, stream_id=stream_id)
    raise ValueError(f"an engine cannot do {kind!r}")


def _answered(item: Item, work: Work) -> Item:
    if item.kind == "transcribe":
        segments, speech_s = spoken(work)
        item = item._replace(segments=segments, speech_s=speech_s)
    return item._replace(
        value=work.result,
        error=work.error,
        finished_ns=now_ns(),
        batch_id=work.batch_id,
        batch_size=work.batch_size,
    )


def gc_policy(gc: Mapping[str, Any]) -> Any:
    """The collector's policy, in force in this process from here on; None where none is configured."""
    if not gc:
        return None
    policy = registry.make("gc", gc["name"], gc.get("options", {}))
    policy.after_startup()
    return policy
