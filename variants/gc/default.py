"""Python as it is: the start-up heap is visited by every full collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from variants.gc.types import Policy, parse_options


def build(options: Mapping[str, Any]) -> DefaultPolicy:
    """Raises ``UsageError`` for options that ``HeapOptions`` does not have."""
    return DefaultPolicy(parse_options(options))


class DefaultPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "default"
