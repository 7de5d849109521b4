"""Frozen dataclasses to JSON types and back, driven by their annotations."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from harness.errors import UsageError


def to_json(value: Any) -> Any:
    """JSON types only: dataclasses and mappings become objects, tuples become arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, value: Any, where: str) -> Any:
    """A value of type ``kind`` from JSON types; ``where`` names the key in error messages.

    Raises ``UsageError`` for a missing key, an unknown key or a value of another type.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _from_optional(kind, value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return _from_object(kind, value, where)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        return tuple(from_json(item, x, f"{where}[{i}]") for i, x in enumerate(_expect(list, value, where)))
    if origin is not None and issubclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        return {key: from_json(item, x, f"{where}.{key}") for key, x in _expect(dict, value, where).items()}
    return _from_scalar(kind, value, where)


def _from_optional(kind: Any, value: Any, where: str) -> Any:
    if value is None:
        return None
    (inner,) = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    return from_json(inner, value, where)


def _from_object(kind: type, value: Any, where: str) -> Any:
    given = _expect(dict, value, where)
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}")
    missing = [name for name, f in known.items() if name not in given and _is_required(f)]
    if missing:
        raise UsageError(f"{where}: key {missing[0]!r} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_json(hints[name], x, f"{where}.{name}") for name, x in given.items()})


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _from_scalar(kind: Any, value: Any, where: str) -> Any:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise UsageError(f"{where}: {value!r} is none of {known}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return float(value)
    return _expect(kind, value, where)


def _expect(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {kind.__name__}, found {value!r:.60}")
    return value
