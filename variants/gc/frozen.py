"""``gc.freeze()`` after start-up: what exists by then is never visited again.

A full collection comes first, so that no garbage is frozen with the rest (the documentation of
``gc.freeze`` advises it for servers that fork; here it also empties the younger generations).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from variants.gc.types import HeapOptions, Pause, Policy

Options = HeapOptions


def build(options: Options) -> FrozenPolicy:
    return FrozenPolicy(options)


class FrozenPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "frozen"

    def _apply(self) -> None:
        gc.collect()
        gc.freeze()

    def _not_engaged(self, _pauses: Sequence[Pause]) -> str:
        frozen = gc.get_freeze_count()
        if frozen < max(1, self._options.objects):
            return f"{frozen} objects are frozen, fewer than the {self._options.objects} made at start-up"
        return ""
