"""No collections at all: reference counting alone, and cycles are never freed.

The upper bound of what the collector can cost, and a leak where the service makes cycles: the
evidence of a run shows its memory.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

from variants.gc.types import Pause, Policy, parse_options


def build(options: Mapping[str, Any]) -> DisabledPolicy:
    """Raises ``UsageError`` for options that ``HeapOptions`` does not have."""
    return DisabledPolicy(parse_options(options))


class DisabledPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "disabled"

    def _apply(self) -> None:
        gc.disable()

    def _not_engaged(self, pauses: Sequence[Pause]) -> str:
        if gc.isenabled() or pauses:
            return f"something enabled the collector again: {len(pauses)} collections"
        return ""
