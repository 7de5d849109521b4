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


def _check(encoder: str, name: str, value: Any, default: Any) -> None:
    where = f"encoder.options.{name}={value}: {encoder} takes"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{where} true or false")
    elif isinstance(default, int):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{where} a whole number, not below 0")
    elif isinstance(default, float) and (
        not isinstance(value, int | float) or isinstance(value, bool) or not value > 0
    ):
        raise UsageError(f"{where} a number above 0")
