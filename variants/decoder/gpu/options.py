"""Options of a decoder: what a leaf of ``conf/decoder`` says, over the defaults of the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError

LOOKAHEADS = (1, 2, 4, 8)


def read_options(options: Mapping[str, Any], decoder: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` over ``defaults``. Raises ``UsageError`` for a key or a value that means nothing."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults))
        raise UsageError(f"decoder.options: {decoder} has no {', '.join(unknown)}; it has {known}")
    merged = {**defaults, **options}
    for name, default in defaults.items():
        _check(decoder, name, merged[name], default)
    lookahead = merged.get("lookahead", 1)
    if lookahead not in LOOKAHEADS:
        raise UsageError(f"decoder.options.lookahead={lookahead}: {decoder} takes one of {LOOKAHEADS}")
    return merged


def _check(decoder: str, name: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"decoder.options.{name}={value}: {decoder} takes true or false")
    elif isinstance(default, int) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UsageError(f"decoder.options.{name}={value}: {decoder} takes a whole number above 0")
