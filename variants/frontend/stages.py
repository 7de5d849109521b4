"""One stage of a front end, in whichever process it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from harness.protocols import Audio, Evidence
from harness.spans import SpanRecorder


@runtime_checkable
class Telling(Protocol):
    """A stage that keeps count of what it did."""

    def evidence(self) -> Evidence: ...


def evidence_of(stages: Iterable[tuple[str, Callable[[Any], Any]]]) -> Evidence:
    """What the stages tell, under keys of their own."""
    told: dict[str, Any] = {}
    for stage in dict(stages).values():
        teller: object = stage
        if isinstance(teller, Telling):
            told.update(teller.evidence())
    return told


def run_stage(name: str, stage: Callable[[Any], Any], value: Any, spans: SpanRecorder) -> Any:
    """What ``stage`` makes of ``value``, in the span ``name``; what decoding spent on resampling is apart."""
    with spans.span(name):
        value = stage(value)
    if isinstance(value, Audio) and value.resampled_ns:
        spans.divide_last("resample", value.resampled_ns)
    return value
