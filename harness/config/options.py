"""The options of every choice: what Hydra composes their defaults from, and what checks them afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import UnavailableError
from harness.paths import conf_dir
from harness.protocols.options import NoOptions, convert, plain
from harness.run.tracing import NsysOptions, TorchOptions
from harness.workload.options import OfflineOptions, OpenOptions, StreamingOptions
from harness.yaml_file import read_yaml
from variants import registry

#: Choices of the harness itself; those of the server are the registry's.
_OWN = MappingProxyType(
    {
        ("workload", "open"): OpenOptions,
        ("workload", "offline"): OfflineOptions,
        ("workload", "streaming"): StreamingOptions,
        ("profiler", "torch"): TorchOptions,
        ("profiler", "nsys"): NsysOptions,
    }
)
AXES = (*registry.AXES, "workload", "profiler")


def options_type(axis: str, name: str) -> type:
    """The dataclass of a choice's options. Raises ``UsageError`` where there is no such choice."""
    if axis in registry.AXES:
        return registry.options_type(axis, name)
    return _OWN.get((axis, name), NoOptions)


@cache
def defaults() -> Mapping[tuple[str, str], dict[str, Any]]:
    """The options of each leaf ``(axis, file name)``, with their defaults."""
    return {(axis, leaf): _defaults(axis, name) for axis in AXES for leaf, name in _leaves(axis)}


def checked(config: RunConfig) -> RunConfig:
    """``config`` with every option of its choices filled in. Raises ``UsageError`` naming the key."""
    front = config.frontend
    filled: dict[str, Any] = {
        "frontend": {"name": front["name"], **_filled("frontend", front["name"], front)}
    }
    for axis in AXES:
        if axis != "frontend":
            choice = getattr(config, axis)
            filled[axis] = replace(choice, options=_filled(axis, choice.name, choice.options))
    return replace(config, **filled)


def _filled(axis: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in given.items() if (axis, key) != ("frontend", "name")}
    return plain(convert(options_type(axis, name), own, registry.place(axis)))


def _leaves(axis: str) -> Iterator[tuple[str, str]]:
    for path in sorted((conf_dir() / axis).glob("*.yaml")):
        yield path.stem, str(read_yaml(path)["name"])


def _defaults(axis: str, name: str) -> dict[str, Any]:
    try:
        return plain(options_type(axis, name)())
    except UnavailableError:  # it says so when it is chosen
        return {}
