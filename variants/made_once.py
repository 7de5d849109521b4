"""What a process of its own makes once and every later one finds: exports and conversions of models.

Of its own, so that the process which serves holds nothing of what only the making needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.protocols import BuildProgress
from harness.protocols.children import Child
from variants.content_cache import ContentCache

_GRACE_S = 10.0


def made_once(
    root: Path, content: Sequence[Any], target: str, job: Callable[[Path], Any], progress: BuildProgress
) -> Path:
    """The folder under ``root`` that is made of ``content`` (JSON types), filled by ``target``
    (``"module:function"``, called with ``job(folder)`` and its control connection) where there is none yet.

    Raises the error that ``target`` ended with.
    """
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    cache = ContentCache(root)
    if (found := cache.get(key)) is not None:
        return found
    with cache.create(key) as unfinished:
        child = Child(target, job(unfinished), "export")
        try:
            child.answer(progress)
        finally:
            child.end(_GRACE_S)
    made = cache.get(key)
    if made is None:
        raise HarnessError(f"{root / key}: damaged while it was written: is the disk full?")
    return made
