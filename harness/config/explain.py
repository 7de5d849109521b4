"""What Hydra and OmegaConf reject, as one line that names the key and the remedy."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from types import MappingProxyType

from omegaconf import DictConfig

from harness.config import schema
from harness.files import expanded

_UNKNOWN_CHOICE = re.compile(r"Could not find '(?P<group>[^'/]+)/(?P<choice>[^']*)'.*: (?P<known>.+)")
_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^']+)'")
_SEVERAL_VALUES = re.compile(r"Ambiguous value for argument '(?P<override>.*?)'\n", re.DOTALL)
_NUMBER_AS_CHOICE = "Config group override must be a string"
_RENAMED = MappingProxyType({"runner.start_timeout_s": "runner.silence_timeout_s"})
_OPTIONS = ".options."
"""Below it a choice has keys of its own, which the schema does not know."""


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
    return _no_option(key["key"]) if _OPTIONS in key["key"] else no_key(key["key"])


def _unquoted(override: str) -> str:
    """What to type for a value that Hydra's grammar of lists, functions and numbers does not let through.

    A leading ``~`` is written out, because no shell does that after a key.
    """
    key, _, value = override.partition("=")
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value if value[:1] != "~" else str(expanded(value)))
    whole = f"{key}='{escaped}'"
    typed = f'"{whole}"' if not re.search(r'["$`\\!]', whole) else shlex.quote(whole)
    return f"{key}: the value {value} has to be quoted, for Hydra and for the shell: {typed}"


def no_key(key: str) -> str:
    if key in _RENAMED:
        return f"{key}: is called {_RENAMED[key]} now"
    known = _keys(schema.writable_schema())
    return f"{key}: no such key{_meant(key, known)}; python -m harness --cfg job prints every key"


def _no_option(key: str) -> str:
    group, _, name = key.partition(_OPTIONS)
    return (
        f"{key}: the chosen {group} has no option {name}; choose another, or see its options with "
        f"python -m harness {group}=NAME --cfg job"
    )


def unknown_key(node: DictConfig) -> str | None:
    """The first key of ``node`` that the schema does not have: Hydra lets ``+key=value`` add any."""
    known = set(_keys(schema.writable_schema()))
    return next((key for key in _keys(node) if key not in known and _OPTIONS not in key), None)


def _no_choice(group: str, choice: str, known: list[str]) -> str:
    return f"{group}={choice}: no such choice{_meant(choice, known)}; {group} is one of {', '.join(known)}"


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of every key, groups included."""
    for key in map(str, node):
        name = f"{prefix}{key}"
        yield name
        if isinstance(child := node._get_node(key), DictConfig) and not child._is_missing():
            yield from _keys(child, f"{name}.")
