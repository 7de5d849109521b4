"""Whether two runs stand on the same ground: everything that could explain a difference but the variant.

A run's fields have dotted names (``gpu.driver``, ``workload.requests``). Those of the variant itself
are what a comparison is about; any other difference must be declared its subject, or the two runs
are not comparable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from harness.errors import NotComparableError
from harness.record import Comparability, Provenance, Run, content_hash

VARIANT_AXES = ("variant", "encoder", "decoder", "batching", "topology", "ipc", "io", "gc")
"""Subjects of any comparison: the variant's name and the choices it is made of."""

_GROUND_GROUPS = ("model", "frontend", "workload", "runner")
_FOREIGN_GROUPS = ("variant", "target", "workload", "runner")
"""Of a server that is none of ours: no part of the variant, the model or the front end is what ran."""
_IGNORED = frozenset(
    {
        "target.key_variable",
        "target.max_wer",
        "model.weights",  # a path; weights_hash says what was in it
        "runner.results_dir",
        "runner.cache_dir",
        "runner.resume",
        "runner.label",
        "runner.reference",
        "runner.max_failed_share",
        "runner.silence_timeout_s",
        "runner.start_timeout_s",  # its name in older runs
        "runner.processes",  # more processes narrow the interval, they do not move it
    }
)
_NAMED = 4
_IGNORED_LEAVES = frozenset({"needs", "tolerance", "max_wer_difference", "family", "families"})
_IMPLIED = MappingProxyType({"frontend.name": "host", "runner.spelling": "as_is"})
"""What runs of earlier schema versions do not state, because there was no other."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two runs differ; a run that lacks it has ``None``."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.a} / {self.b}"


def comparability_of(config: Mapping[str, Any], provenance: Provenance) -> Comparability:
    """The fields of a run, and a key that is equal for runs which differ in nothing but the variant."""
    fields = {**_machine(provenance), **_configured(config)}
    if is_foreign(config):
        fields["target.versions"] = dict(provenance.model.details)
    else:
        fields["model.weights_hash"] = provenance.model.weights_hash
    fields["dataset.content_hash"] = provenance.dataset.content_hash
    ground = {name: value for name, value in fields.items() if not is_under(name, VARIANT_AXES)}
    return Comparability(content_hash(ground)[:16], dict(sorted(fields.items())))


def differences(a: Run, b: Run, subjects: Collection[str] = ()) -> tuple[Difference, ...]:
    """Fields that differ and are no subject; both runs are read by this version's rules."""
    ours = comparability_of(a.config, a.provenance).fields
    theirs = comparability_of(b.config, b.provenance).fields
    allowed = (*VARIANT_AXES, *subjects)
    return tuple(
        Difference(name, ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not is_under(name, allowed)
    )


def require_comparable(a: Run, b: Run, subjects: Collection[str] = ()) -> None:
    """Raise ``NotComparableError`` that names what differs and how to allow it."""
    found = differences(a, b, subjects)
    if a.mode is not b.mode:
        found = (Difference("workload.mode", str(a.mode), str(b.mode)), *found)
    if not found:
        return
    raise NotComparableError(
        f"{a.run_id} and {b.run_id} differ in {in_words(found)}; measure both alike, "
        f"or declare it the subject: --subject {found[0].field}"
    )


def in_words(found: Sequence[Difference]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(map(str, found[:_NAMED])) + more


def is_under(name: str, prefixes: Collection[str]) -> bool:
    """Whether a dotted name is one of ``prefixes`` or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _machine(origin: Provenance) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "machine.cpu": origin.cpu,
        "machine.cores": origin.cpu_count,
        "machine.os": origin.os,
        "machine.python": origin.python,
    }
    for place, gpu in enumerate(origin.gpus, start=1):
        name = "gpu" if place == 1 else f"gpu{place}"
        fields[f"{name}.name"] = gpu.name
        fields[f"{name}.driver"] = gpu.driver
        fields[f"{name}.memory_bytes"] = gpu.memory_bytes
        fields[f"{name}.power_limit_w"] = gpu.power_limit_w
    return fields | {f"library.{name}": version for name, version in origin.packages.items()}


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether a run measured a server that is none of ours. Runs before there were any do not say so."""
    return bool(config.get("target", {}).get("name", "in_house") != "in_house")


def _configured(config: Mapping[str, Any]) -> dict[str, Any]:
    groups = _FOREIGN_GROUPS if is_foreign(config) else (*VARIANT_AXES, *_GROUND_GROUPS)
    flat = _flat({key: config[key] for key in groups if key in config})
    implied = {name: value for name, value in _IMPLIED.items() if is_under(name, groups)}
    return {
        name: value
        for name, value in {**implied, **flat}.items()
        if name not in _IGNORED and not _IGNORED_LEAVES & set(name.split("."))
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple | list) else value
    return flat
