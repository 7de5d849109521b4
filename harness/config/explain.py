"""What Hydra and OmegaConf reject, as one line that names the key and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.config.options import AXES, defaults, place
from harness.config.schema import RunConfig
from harness.protocols.options import plain

_UNKNOWN_CHOICE = re.compile(r"Could not find '(?P<group>[^'/]+)/(?P<choice>[^']*)'.*: (?P<known>.+)")
_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^']+)'")


def one_line(error: Exception) -> str:
    """The explanation of ``error``: in this project's words for what users get wrong most often,
    else Hydra's and its cause, without the search paths, which name no remedy."""
    explanation = str(error).partition("Config search path:")[0]
    if error.__cause__ is not None:
        explanation += f": {str(error.__cause__).partition('full_key')[0]}"
    line = " ".join(part.strip() for part in explanation.splitlines() if part.strip())
    if choice := _UNKNOWN_CHOICE.search(line):
        return _no_choice(choice["group"], choice["choice"], choice["known"].split())
    key = _UNKNOWN_KEY.search(line)
    if key is None:
        return line
    axis = next((axis for axis in AXES if key["key"].startswith(f"{place(axis)}.")), None)
    return _no_key(key["key"]) if axis is None else _no_option(key["key"], axis)


def _no_key(key: str) -> str:
    known = _keys(plain(RunConfig()))
    return f"{key}: no such key{_meant(key, known)}; python -m harness.options prints every key"


def _no_option(key: str, axis: str) -> str:
    name = key.removeprefix(f"{place(axis)}.")
    keys = {leaf: set(_keys(values)) for (group, leaf), values in defaults().items() if group == axis}
    owners = [leaf for leaf, known in keys.items() if name in known]
    if owners:
        remedy = f"; it is one of {axis}={', '.join(owners)}"
    else:
        remedy = _meant(key, (f"{place(axis)}.{known}" for known in sorted(set().union(*keys.values()))))
    return (
        f"{key}: the chosen {axis} has no option {name}{remedy}; "
        f"python -m harness.options {axis}=NAME prints those of a choice"
    )


def _no_choice(group: str, choice: str, known: list[str]) -> str:
    return f"{group}={choice}: no such choice{_meant(choice, known)}; {group} is one of {', '.join(known)}"


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of every key, groups included."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
