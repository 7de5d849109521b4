"""Python as it is: the start-up heap is visited by every full collection."""

from __future__ import annotations

from variants.gc.types import HeapOptions, Policy

Options = HeapOptions


def build(options: Options) -> DefaultPolicy:
    return DefaultPolicy(options)


class DefaultPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "default"
