"""The only door from the harness to the variants: choices by name, and the service made of them.

A choice ``NAME`` of axis ``AXIS`` is the module ``variants.AXIS.NAME`` with a callable ``build`` and,
where it has options, a frozen dataclass ``Options``. An encoder or a decoder of a family that has a folder
on its axis is the module ``variants.AXIS.FAMILY.NAME`` instead: models of different families share names and
options of choices, not code.
Nothing outside the package ``variants`` can be reached from a configuration, and a new choice
needs no entry anywhere: its module and its configuration leaf are the registration.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from harness.errors import UnavailableError, UsageError
from harness.protocols import ServiceSpec
from harness.protocols.options import NoOptions, convert
from harness.protocols.server import ServerPlan
from harness.spans import SpanRecorder
from variants.decoder import options as decoder_options
from variants.encoder import options as encoder_options

if TYPE_CHECKING:
    from variants.ipc.types import Transport

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

#: Where the options of choices are declared whose own modules import torch.
_OPTIONS = MappingProxyType({"encoder": encoder_options, "decoder": decoder_options})

#: Families whose encoders and decoders are in folders of their own; those of ``tdt`` are the axis' modules.
_FOLDERS = frozenset({"attention"})

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def load(axis: str, name: str, family: str = "") -> Callable[..., Any]:
    """The ``build`` function of a choice, as it serves models of ``family``.

    Raises ``UsageError`` for an axis or a name that does not exist. An error inside the module
    itself (a missing dependency, say) is not swallowed.
    """
    module = _module(axis, name, family)
    build = getattr(module, "build", None)
    if not callable(build):
        raise UsageError(f"{axis}.name={name}: {module.__name__} offers no build()")
    return build  # type: ignore[no-any-return]


def options_type(axis: str, name: str) -> type:
    """The dataclass of a choice's options (``harness.protocols.options``): ``Options`` in its module.

    Choices whose module imports torch declare theirs in the axis' module ``options``, under their name
    in camel case: a configuration is composed without torch. Raises ``UnavailableError`` where a package
    is missing that the choice's module imports.
    """
    if name == "none":  # the leaf that chooses nothing
        return NoOptions
    kind: type | None = getattr(_OPTIONS.get(axis), name.title().replace("_", ""), None)
    if kind is None:
        kind = getattr(_importable(axis, name), "Options", NoOptions)
    return kind


def place(axis: str) -> str:
    """Where in the configuration an axis' options stand: the front end's, beside its name."""
    return axis if axis == "frontend" else f"{axis}.options"


def options(axis: str, name: str, given: Mapping[str, Any]) -> Any:
    """A choice's options as its ``build`` takes them. Raises ``UsageError`` naming the key."""
    return convert(options_type(axis, name), given, place(axis))


def make(axis: str, name: str, given: Mapping[str, Any], *parts: Any, family: str = "", **more: Any) -> Any:
    """What a choice's ``build`` makes of ``parts``, its options as they were ``given``, and ``more``."""
    return load(axis, name, family)(*parts, options(axis, name, given), **more)


def on_device(name: str, given: Mapping[str, Any], model: Any) -> Any:
    """The half of a front end that runs where ``model`` is; None where all of it runs on the host."""
    half = getattr(_module("frontend", name), "on_device", None)
    return None if half is None else half(options("frontend", name, given), model)


def reference_frontend(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The leaf of the front end behind which the eager reference runs: itself, or its ``reference``."""
    reference = getattr(_module("frontend", name), "reference", None)
    leaf: dict[str, Any] = (
        {"name": name, **given} if reference is None else reference(options("frontend", name, given))
    )
    return leaf


def transport(ipc: Mapping[str, Any]) -> Transport:
    """The transport of an ipc leaf ``{name: ..., options: {...}}``; an empty mapping is the default."""
    made: Transport = make("ipc", ipc.get("name", "shared_memory"), ipc.get("options", {}))
    return made


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


def _module(axis: str, name: str, family: str = "") -> ModuleType:
    if axis not in AXES:
        raise UsageError(f"no variant axis {axis!r}; axes are {', '.join(AXES)}")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{axis}.name={name!r} is not the name of a choice: use lower-case letters, digits and _"
        )
    folder = f".{family}" if family in _FOLDERS else ""
    module_name = f"{AXES[axis]}{folder}.{name}"
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise UsageError(f"{axis}.name={name}: there is no module {module_name}") from error


def _importable(axis: str, name: str) -> ModuleType:
    try:
        return _module(axis, name)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{axis}={name}: the Python package {error.name!r} is not installed"
        ) from error
