"""Options that every topology of several processes has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError
from variants.topology.pipeline import PipelineOptions
from variants.topology.supervisor import RestartPolicy

DEFAULTS: Mapping[str, Any] = {
    "max_pending": 8192,
    "max_pending_mb": 2048,
    "max_restarts": 5,
    "restart_window_s": 60.0,
}


def checked(options: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options over their defaults; raises ``UsageError`` for an unknown key or a number out of range."""
    known = {**DEFAULTS, **(own or {})}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"topology.options.{unknown[0]} does not exist; there are {', '.join(known)}")
    chosen = {**known, **options}
    for key, value in chosen.items():
        least = 0 if key == "max_restarts" else 1
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise UsageError(f"topology.options.{key}={value!r} has to be a number of at least {least}")
    return chosen


def pipeline_options(chosen: Mapping[str, Any]) -> PipelineOptions:
    return PipelineOptions(
        max_pending=int(chosen["max_pending"]),
        max_pending_bytes=int(chosen["max_pending_mb"]) << 20,
        restart=RestartPolicy(
            max_restarts=int(chosen["max_restarts"]), window_s=float(chosen["restart_window_s"])
        ),
    )
