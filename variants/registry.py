"""The only door from the harness to the variants: choices by name, and the service made of them.

A choice ``NAME`` of axis ``AXIS`` is the module ``variants.AXIS.NAME`` with a callable ``build``.
Nothing outside the package ``variants`` can be reached from a configuration, and a new choice
needs no entry anywhere: its module and its configuration leaf are the registration.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import MappingProxyType, ModuleType
from typing import Any

from harness.errors import UsageError
from harness.protocols import ServiceSpec
from harness.protocols.server import ServerPlan
from harness.spans import SpanRecorder

#: Axis in the configuration -> package that holds its choices.
AXES = MappingProxyType(
    {
        "frontend": "variants.frontend",
        "model": "variants.models",
        "encoder": "variants.encoder",
        "decoder": "variants.decoder",
        "batching": "variants.batching",
        "topology": "variants.topology",
        "ipc": "variants.ipc",
        "io": "variants.io",
        "gc": "variants.gc",
    }
)

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def load(axis: str, name: str) -> Callable[..., Any]:
    """The ``build`` function of a choice.

    Raises ``UsageError`` for an axis or a name that does not exist. An error inside the module
    itself (a missing dependency, say) is not swallowed.
    """
    module = _module(axis, name)
    build = getattr(module, "build", None)
    if not callable(build):
        raise UsageError(f"{axis}.name={name}: {module.__name__} offers no build()")
    return build  # type: ignore[no-any-return]


def preload(axis: str, name: str) -> None:
    """Import a choice and, by its ``preload()`` where it has one, what it imports only when it builds."""
    ahead = getattr(_module(axis, name), "preload", None)
    if ahead is not None:
        ahead()


def service_spec(
    choices: Mapping[str, Mapping[str, Any]],
    lengths_s: Sequence[float],
    make_recorder: Callable[[], SpanRecorder],
) -> ServiceSpec:
    """The parts of a service, from the leaf that was chosen on each axis (see ``variants.serving.spec``)."""
    from variants.serving.spec import service_spec

    return service_spec(choices, lengths_s, make_recorder)


def serve(plan: ServerPlan, control: Connection) -> None:
    """The main of a server's process (see ``variants.serving.server``)."""
    from variants.serving.server import serve

    serve(plan, control)


def _module(axis: str, name: str) -> ModuleType:
    if axis not in AXES:
        raise UsageError(f"no variant axis {axis!r}; axes are {', '.join(AXES)}")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{axis}.name={name!r} is not the name of a choice: use lower-case letters, digits and _"
        )
    module_name = f"{AXES[axis]}.{name}"
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise UsageError(f"{axis}.name={name}: there is no module {module_name}") from error
