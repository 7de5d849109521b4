"""Which variants this machine can run, and what the others lack."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass

from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.config.rules import check
from harness.doctor.findings import Fact
from harness.errors import UnavailableError
from harness.paths import conf_dir
from harness.run.provenance import PACKAGES


@dataclass(frozen=True, slots=True)
class Runnable:
    variant: str
    lack: str | None
    """What is missing; None where it can run."""


def runnable(machine: Machine) -> Iterator[Runnable]:
    """Every preset of ``conf/variant``."""
    for path in sorted((conf_dir() / "variant").glob("*.yaml")):
        yield Runnable(path.stem, _lack(path.stem, machine))


def _lack(variant: str, machine: Machine) -> str | None:
    try:
        check(compose_run([f"variant={variant}"]), machine)
    except UnavailableError as error:
        return str(error).removeprefix(f"variant={variant} cannot run here. ")
    return None


def packages() -> Iterator[Fact]:
    """Those whose version can change a measurement or an output."""
    for name in PACKAGES:
        try:
            yield Fact(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Fact(name, "not installed")
