"""Values to bytes, with the arrays left where they are (pickle protocol 5, PEP 574)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Packed(NamedTuple):
    """A value as ``metadata`` plus the memory of its arrays.

    The metadata holds shapes, dtypes and everything else. ``inline_bytes`` of arrays are in it too:
    small ones, and those that are not contiguous in memory.
    """

    metadata: bytes
    buffers: list[memoryview]
    inline_bytes: int


def pack(value: Any, inline_below: int = 1) -> Packed:
    """Arrays smaller than ``inline_below`` bytes travel in the metadata."""
    buffers: list[memoryview] = []
    inline = 0

    def keep_inline(buffer: pickle.PickleBuffer) -> bool:
        nonlocal inline
        raw = buffer.raw()
        if raw.nbytes < inline_below:
            inline += raw.nbytes
            return True
        buffers.append(raw)
        return False

    metadata = pickle.dumps(value, protocol=5, buffer_callback=keep_inline)
    return Packed(metadata, buffers, inline)


def unpack(metadata: bytes | memoryview, buffers: Sequence[Any]) -> Any:
    """The value; its arrays are views of ``buffers`` and as writable as they are."""
    return pickle.loads(metadata, buffers=buffers)


def address_of(buffer: Any) -> int:
    """Where a non-empty contiguous buffer begins in this process's memory."""
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])
