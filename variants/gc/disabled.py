"""No collections at all: reference counting alone, and cycles are never freed.

The upper bound of what the collector can cost, and a leak where the service makes cycles: the
evidence of a run shows its memory.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from variants.gc.types import HeapOptions, Pause, Policy

Options = HeapOptions


def build(options: Options) -> DisabledPolicy:
    return DisabledPolicy(options)


class DisabledPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "disabled"

    def _apply(self) -> None:
        gc.disable()

    def _not_engaged(self, pauses: Sequence[Pause]) -> str:
        if gc.isenabled() or pauses:
            return f"something enabled the collector again: {len(pauses)} collections"
        return ""
