"""What has a name in the machine's shared memory."""

from __future__ import annotations

import time
from pathlib import Path

FOLDER = Path("/dev/shm")
PATIENCE_S = 5.0
"""How long a name may stay: a semaphore that another process is opening has one for a moment."""


def names() -> set[str]:
    return {path.name for path in FOLDER.iterdir()}


def left_since(before: set[str]) -> set[str]:
    """Names that came after ``before`` and stay."""
    end_s = time.monotonic() + PATIENCE_S
    while (left := names() - before) and time.monotonic() < end_s:
        time.sleep(0.05)
    return left
