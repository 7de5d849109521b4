"""The manual of every key: ``python -m harness.options [group=choice …]``.

Each key stands with its value in this configuration, what it takes and what it means, as the dataclass
says that checks it. Naming choices shows their groups alone.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from harness.command import command, guarded
from harness.config.load import compose_run, to_dict
from harness.config.options import AXES, options_type
from harness.config.schema import MISSING, RunConfig
from harness.errors import ExitCode
from harness.protocols.options import documented
from variants import registry

_WIDTH = 110
_INDENT = " " * 4


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.options", description="Print every key of a configuration and what it means."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="group=choice", help="as for python -m harness; shows these groups"
    )
    overrides = parser.parse_args(arguments).overrides
    return guarded(lambda: _print(overrides))


def _print(overrides: Sequence[str]) -> int:
    config = compose_run(overrides)
    values = to_dict(config)
    named = {override.partition("=")[0].lstrip("+~").partition(".")[0] for override in overrides}
    for group in documented(RunConfig):
        if group.name in (named - {"variant"} or values):
            for line in _group(group.name, group.nested, values):
                print(line)
    return int(ExitCode.DONE)


def _group(name: str, kind: type | None, values: Mapping[str, Any]) -> Iterator[str]:
    """The keys that every choice of a group has, then those of the chosen one."""
    own = values[name]
    chosen = options_type(name, own["name"]) if name in AXES else None
    if kind is not None:
        yield from _keys(kind, own, name)
    if chosen is not None and fields(chosen):
        place = registry.place(name)
        yield from _keys(chosen, own if place == name else own["options"], place)


def _keys(kind: type, values: Mapping[str, Any], place: str) -> Iterator[str]:
    for key in documented(kind):
        if key.nested is not None:
            yield from _keys(key.nested, values[key.name], f"{place}.{key.name}")
        elif key.takes != "a group of keys":
            value, default = _shown(values[key.name]), _shown(key.default)
            yield f"{place}.{key.name}={value}"
            yield _INDENT + key.takes + (f"; by default {default}" if default not in (value, MISSING) else "")
            if key.text:
                yield textwrap.fill(
                    key.text.replace("``", ""), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
                )


def _shown(value: Any) -> str:
    """As the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


if __name__ == "__main__":
    sys.exit(command(main))
