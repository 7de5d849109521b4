from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from variants import registry
from variants.ipc.types import Transport

CHOICES = {
    "zeromq": {},
    "uds_copy": {},
    "shared_memory": {"capacity_mb": 8, "slot_kb": 16},
}


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Children are forked from a small server that knows NumPy and the links: a few ms each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.variants.ipc.children", "variants.ipc.shared_memory"])
    return context


@pytest.fixture
def spawn(processes: ForkServerContext) -> Iterator[Callable[..., BaseProcess]]:
    """``spawn(target, *arguments)``: a running child, killed at the end of the test."""
    children: list[BaseProcess] = []

    def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
        child = processes.Process(target=target, args=arguments, daemon=True)
        child.start()
        children.append(child)
        return child

    yield start
    for child in children:
        with contextlib.suppress(ValueError):
            child.kill()
            child.join()


@pytest.fixture(params=CHOICES)
def transport(request: pytest.FixtureRequest) -> Transport:
    return registry.transport({"name": request.param, "options": CHOICES[request.param]})


@pytest.fixture
def shared() -> Transport:
    return registry.transport({"name": "shared_memory", "options": CHOICES["shared_memory"]})


@pytest.fixture
def address(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: str(tmp_path / name)
