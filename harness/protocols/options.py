"""Options as frozen dataclasses: fields are the keys, annotations the checks, docstrings the manual.

A field's hint says what it takes (``Literal`` for words, the ranges below for numbers), the string under
it what it means; what several fields have to agree in is checked by the class's ``__post_init__``.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from harness.errors import UsageError

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

T = TypeVar("T")

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


@dataclass(frozen=True)
class NoOptions:
    """What a choice without options takes."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One key of a dataclass, in words. ``nested`` is the dataclass of a group of keys."""

    name: str
    takes: str
    default: Any
    text: str
    nested: type | None


def convert(kind: type[T], given: Mapping[str, Any], key: str = "") -> T:
    """``given`` over the defaults of the dataclass ``kind``; groups of keys are dataclasses again.

    ``key`` is where in the configuration ``given`` stands. Raises ``UsageError`` naming the full key that
    does not exist or holds what its field does not take. Every number is finite.
    """
    hints: Mapping[str, Any] = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    values = {}
    for name, value in given.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in hints:
            raise UsageError(unknown(full, str(name), hints))
        values[name] = _value(hints[name], value, full)
    return kind(**values)


def plain(options: Any) -> dict[str, Any]:
    """Every key of a dataclass in JSON's types."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(options))
    return values


def unknown(full: str, name: str, known: Mapping[str, Any]) -> str:
    """What to say of a key that is none of ``known``."""
    if not known:
        return f"{full}: no such key; there are no options here"
    close = difflib.get_close_matches(name, list(known), n=1)
    parent = full.rpartition(".")[0]
    meant = f", did you mean {f'{parent}.' if parent else ''}{close[0]}?" if close else ""
    return f"{full}: no such key{meant}; there are {', '.join(known)}"


def documented(kind: type) -> Iterator[Documented]:
    """The keys of a dataclass, in order."""
    hints, texts = _hints(kind), _docstrings(kind)
    for item in fields(kind):
        hint = hints[item.name]
        nested = hint if is_dataclass(hint) and isinstance(hint, type) else None
        yield Documented(item.name, takes(hint), _default(item), texts.get(item.name, ""), nested)


def takes(hint: Any) -> str:
    """A hint in words, such as ``a whole number from 0 to 4``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return takes(arguments[0]) + "".join(_range(m) for m in arguments[1:] if isinstance(m, Meta))
    if origin is Literal:
        return _either([str(word) for word in arguments])
    if origin in (Union, types.UnionType):
        return _either([takes(part) for part in arguments])
    if origin in (list, tuple):
        return f"a list, each {takes(arguments[0])}"
    return _WORDS.get(hint, "a group of keys")


def _value(hint: Any, value: Any, key: str) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return convert(hint, value, key)  # type: ignore[arg-type]
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a label, say, that YAML reads as a number
    try:
        found = msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise UsageError(f"{key}={value!r} has to be {takes(hint)}") from error
    if isinstance(found, float) and not math.isfinite(found):
        raise UsageError(f"{key}={value} has to be finite: {takes(hint)}")
    return found


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    known = get_type_hints(kind, include_extras=True)
    return {item.name: known[item.name] for item in fields(kind)}


@cache
def _docstrings(kind: type) -> Mapping[str, str]:
    """The string under each field; what a class inherits is documented where it is declared."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


def _range(meta: Meta) -> str:
    low = _bound(("of at least", meta.ge), ("above", meta.gt))
    high = _bound(("at most", meta.le), ("below", meta.lt))
    return " and".join(part for part in (low, high) if part)


def _either(words: list[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _bound(*bounds: tuple[str, float | None]) -> str:
    return next((f" {word} {limit:,}" for word, limit in bounds if limit is not None), "")
