"""Machines of stated parts, to ask what they could run."""

from __future__ import annotations

from harness.config.needs import Machine


class Workstation(Machine):
    """One that has everything, so that only combinations are judged."""

    compute_capability = (9, 0)
    cuda_driver = (13, 0)
    visible_gpus = 2

    def has_package(self, name: str) -> bool:  # noqa: ARG002
        return True


class Laptop(Machine):
    """One without a GPU or its packages."""

    compute_capability = None
    cuda_driver = None
    visible_gpus = 0

    def has_package(self, name: str) -> bool:  # noqa: ARG002
        return False
