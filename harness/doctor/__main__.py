"""``python -m harness.doctor``: what this machine has, what it can run, and what disturbs measuring on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence

from harness.command import command, guarded
from harness.config.needs import Machine
from harness.doctor import gpu, steadiness
from harness.doctor.findings import Complaint, Fact, Finding
from harness.doctor.host import Host
from harness.doctor.variants import Runnable, packages, runnable
from harness.errors import ExitCode
from harness.nvml import open_nvml


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m harness.doctor", description=__doc__).parse_args(arguments)
    return guarded(_examine)


def _examine() -> int:
    with open_nvml() as nvml:
        device = list(gpu.findings(nvml))
    host = [*Host().findings(), *steadiness.findings()]
    print("\n".join(_report(host, device, list(packages()), list(runnable(Machine())))))
    return int(ExitCode.DONE)


def _report(
    host: Sequence[Finding],
    device: Sequence[Finding],
    installed: Sequence[Fact],
    variants: Sequence[Runnable],
) -> Iterator[str]:
    for title, findings in (("host", host), ("gpu", device), ("packages", installed)):
        yield f"== {title} =="
        yield from _facts(findings)
    yield "== variants =="
    for each in variants:
        yield f"{each.variant:18} " + ("can run" if each.lack is None else f"cannot: {each.lack}")
    yield "== what makes timing unsteady here =="
    yield from _complaints((*host, *device))


def _facts(findings: Iterable[Finding]) -> Iterator[str]:
    for each in findings:
        if isinstance(each, Fact):
            yield f"{each.name:18} {each.value}"


def _complaints(findings: Iterable[Finding]) -> Iterator[str]:
    found = [each for each in findings if isinstance(each, Complaint)]
    for each in found:
        yield f"- {each.what}"
        yield f"  remedy: {each.remedy}"
    if not found:
        yield "nothing was found"


if __name__ == "__main__":
    sys.exit(command(main))
