"""One request at a time: the next is begun when the last has been answered."""

from __future__ import annotations

from harness.protocols.options import NoOptions as Options

__all__ = ["Options"]
