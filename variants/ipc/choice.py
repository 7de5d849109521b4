"""From a configured choice of the ipc axis to its transport."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError
from variants.ipc.types import Transport

DEFAULT_CHOICE = "shared_memory"


def transport_of(ipc: Mapping[str, Any]) -> Transport:
    """The transport of an ipc leaf ``{name: ..., options: {...}}``; an empty mapping is the default."""
    name = str(ipc.get("name", DEFAULT_CHOICE))
    module_name = f"variants.ipc.{name}"
    if not name.isidentifier() or importlib.util.find_spec(module_name) is None:
        raise UsageError(f"ipc={name} does not exist; the choices are the leaves of conf/ipc")
    build = getattr(importlib.import_module(module_name), "build", None)
    if build is None:
        raise UsageError(f"ipc={name} is not a transport; the choices are the leaves of conf/ipc")
    transport: Transport = build(dict(ipc.get("options") or {}))
    return transport


def only_known(options: Mapping[str, Any], known: Mapping[str, Any], choice: str) -> dict[str, Any]:
    """Options over their defaults; an unknown key is the user's typing error."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"{choice}.options has no key {unknown[0]!r}; it has {', '.join(known)}")
    return {**known, **options}
