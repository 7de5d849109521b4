"""``gc.freeze()`` after start-up: what exists by then is never visited again.

A full collection comes first, so that no garbage is frozen with the rest (the documentation of
``gc.freeze`` advises it for servers that fork; here it also empties the younger generations).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from variants.gc.types import Policy, parse_options


def build(options: Mapping[str, Any]) -> FrozenPolicy:
    """Raises ``UsageError`` for options that ``HeapOptions`` does not have."""
    return FrozenPolicy(parse_options(options))


class FrozenPolicy(Policy):
    """See ``variants.gc.types.GcPolicy``."""

    name = "frozen"

    def _apply(self) -> None:
        gc.collect()
        gc.freeze()
