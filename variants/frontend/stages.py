"""One stage of a front end, in whichever process it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.protocols import Audio
from harness.spans import SpanRecorder


def run_stage(name: str, stage: Callable[[Any], Any], value: Any, spans: SpanRecorder) -> Any:
    """What ``stage`` makes of ``value``, in the span ``name``; what decoding spent on resampling is apart."""
    with spans.span(name):
        value = stage(value)
    if isinstance(value, Audio) and value.resampled_ns:
        spans.divide_last("resample", value.resampled_ns)
    return value
