"""What Hydra and OmegaConf reject, as one line that names the key and the remedy."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from harness.config.options import AXES, defaults
from harness.config.schema import RunConfig
from harness.files import expanded
from harness.protocols.options import plain
from variants import registry

_UNKNOWN_CHOICE = re.compile(r"Could not find '(?P<group>[^'/]+)/(?P<choice>[^']*)'.*: (?P<known>.+)")
_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^']+)'")
_SEVERAL_VALUES = re.compile(r"Ambiguous value for argument '(?P<override>.*?)'\n", re.DOTALL)
_NUMBER_AS_CHOICE = "Config group override must be a string"
_RENAMED = MappingProxyType({"runner.start_timeout_s": "runner.silence_timeout_s"})


def one_line(error: Exception) -> str:
    """The explanation of ``error``: in this project's words for what users get wrong most often,
    else Hydra's and its cause, without the search paths, which name no remedy."""
    several = _SEVERAL_VALUES.search(str(error))
    override = several["override"] if several else getattr(error, "override", None)
    if override is not None and "=" in override:
        return _unquoted(override)
    explanation = str(error).partition("Config search path:")[0]
    if error.__cause__ is not None:
        explanation += f": {str(error.__cause__).partition('full_key')[0]}"
    line = " ".join(part.strip() for part in explanation.splitlines() if part.strip())
    if line.startswith(_NUMBER_AS_CHOICE):
        return "a group's choice is a name, not a number; python -m harness --help lists the choices"
    if choice := _UNKNOWN_CHOICE.search(line):
        return _no_choice(choice["group"], choice["choice"], choice["known"].split())
    key = _UNKNOWN_KEY.search(line)
    if key is None:
        return line
    axis = next((axis for axis in AXES if key["key"].startswith(f"{registry.place(axis)}.")), None)
    return _no_key(key["key"]) if axis is None else _no_option(key["key"], axis)


def _unquoted(override: str) -> str:
    """What to type for a value that Hydra's grammar of lists, functions and numbers does not let through.

    A leading ``~`` is written out, because no shell does that after a key.
    """
    key, _, value = override.partition("=")
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value if value[:1] != "~" else str(expanded(value)))
    whole = f"{key}='{escaped}'"
    typed = f'"{whole}"' if not re.search(r'["$`\\!]', whole) else shlex.quote(whole)
    return f"{key}: the value {value} has to be quoted, for Hydra and for the shell: {typed}"


def _no_key(key: str) -> str:
    if key in _RENAMED:
        return f"{key}: is called {_RENAMED[key]} now"
    known = _keys(plain(RunConfig()))
    return f"{key}: no such key{_meant(key, known)}; python -m harness.options prints every key"


def _no_option(key: str, axis: str) -> str:
    name = key.removeprefix(f"{registry.place(axis)}.")
    keys = {leaf: set(_keys(values)) for (group, leaf), values in defaults().items() if group == axis}
    owners = [leaf for leaf, known in keys.items() if name in known]
    if owners:
        remedy = f"; it is one of {axis}={', '.join(owners)}"
    else:
        remedy = _meant(
            key, (f"{registry.place(axis)}.{known}" for known in sorted(set().union(*keys.values())))
        )
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
