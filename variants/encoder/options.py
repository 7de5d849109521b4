"""Options of an encoder: what a leaf of ``conf/encoder`` says, over the defaults of the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import UsageError


def read_options(options: Mapping[str, Any], encoder: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` over ``defaults``. Raises ``UsageError`` for a key or a value that means nothing."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults))
        raise UsageError(f"encoder.options: {encoder} has no {', '.join(unknown)}; it has {known}")
    merged = {**defaults, **options}
    for name, default in defaults.items():
        _check(encoder, name, merged[name], default)
    return merged


def choose(options: Mapping[str, Any], encoder: str, name: str, allowed: Sequence[str]) -> str:
    """A word of ``allowed``."""
    value = options[name]
    if value not in allowed:
        raise UsageError(f"encoder.options.{name}={value}: {encoder} takes {', '.join(allowed)}")
    return str(value)


def share(options: Mapping[str, Any], encoder: str, name: str) -> float:
    """A number from 0 to 1."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise UsageError(f"encoder.options.{name}={value}: {encoder} takes a number from 0 to 1")
    return float(value)


def positive(options: Mapping[str, Any], encoder: str, *names: str) -> None:
    """Refuse a zero where it means nothing."""
    for name in names:
        if not options[name] > 0:
            raise UsageError(f"encoder.options.{name}={options[name]}: {encoder} takes a number above 0")


def _check(encoder: str, name: str, value: Any, default: Any) -> None:
    where = f"encoder.options.{name}={value}: {encoder} takes"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{where} true or false")
    elif isinstance(default, int):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{where} a whole number, not below 0")
    elif isinstance(default, float) and (
        not isinstance(value, int | float) or isinstance(value, bool) or value < 0
    ):
        raise UsageError(f"{where} a number, not below 0")
