"""Values to bytes, with the arrays left where they are (pickle protocol 5, PEP 574)."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Lent = Callable[[int, int], bool]
"""``(address, bytes)``: whether the other side can read that memory where it is."""


class Packed(NamedTuple):
    """A value as ``metadata`` plus the memory of its arrays.

    The metadata holds shapes, dtypes and everything else, and ``inline_bytes`` of small arrays.
    ``gathered_bytes`` were copied because an array was not contiguous in memory.
    """

    metadata: bytes
    buffers: list[memoryview]
    inline_bytes: int
    gathered_bytes: int


def pack(value: Any, inline_budget: int = 0, lent: Lent | None = None) -> Packed:
    """Arrays travel in the metadata as far as ``inline_budget`` bytes reach, except those that are ``lent``.

    An array with gaps (one channel of many, the used part of a larger buffer) is gathered into
    contiguous memory, unless it is ``lent``: then the memory that it spans goes as it is, gaps
    included, and the array is seen in it through its strides.
    """
    packer = _Packer(inline_budget, lent)
    metadata = packer.dump(value)
    return Packed(metadata, packer.buffers, packer.inline_bytes, packer.gathered_bytes)


def unpack(metadata: bytes | memoryview, buffers: Sequence[Any]) -> Any:
    """The value; its arrays are views of ``buffers`` and as writable as they are."""
    return pickle.loads(metadata, buffers=buffers)


def address_of(buffer: Any) -> int:
    """Where a non-empty contiguous buffer begins in this process's memory."""
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


class _Packer:
    def __init__(self, inline_budget: int, lent: Lent | None) -> None:
        self._inline_budget = inline_budget
        self._lent = lent
        self.buffers: list[memoryview] = []
        self.inline_bytes = 0
        self.gathered_bytes = 0

    def dump(self, value: Any) -> bytes:
        out = io.BytesIO()
        pickler = pickle.Pickler(out, protocol=5, buffer_callback=self._keep_inline)
        pickler.dispatch_table = {np.ndarray: self._reduce}
        pickler.dump(value)
        return out.getvalue()

    def _keep_inline(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if self._goes_inline(raw):
            self.inline_bytes += raw.nbytes
            return True
        self.buffers.append(raw)
        return False

    def _goes_inline(self, raw: memoryview) -> bool:
        """What is lent already costs nothing to share, however small it is."""
        if raw.nbytes == 0:
            return True
        if self.inline_bytes + raw.nbytes > self._inline_budget:
            return False
        return self._lent is None or not self._lent(address_of(raw), raw.nbytes)

    def _reduce(self, array: np.ndarray) -> Any:
        flags = array.flags
        if flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject:
            return array.__reduce_ex__(5)
        low, high = np.lib.array_utils.byte_bounds(array)
        if self._lent is not None and min(array.strides) >= 0 and self._lent(low, high - low):
            return _strided, (_spanned(array, high - low), array.shape, array.dtype, array.strides)
        self.gathered_bytes += array.nbytes
        return np.ascontiguousarray(array).__reduce_ex__(5)


def _spanned(array: np.ndarray, nbytes: int) -> pickle.PickleBuffer:
    """The ``nbytes`` of memory that begin at the first element of ``array``."""
    first = np.lib.stride_tricks.as_strided(array, (1,), (array.itemsize,), writeable=False)
    memory = np.lib.stride_tricks.as_strided(first.view(np.uint8), (nbytes,), (1,), writeable=False)
    return pickle.PickleBuffer(memory.data)


def _strided(
    memory: Any, shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...]
) -> np.ndarray:
    seen: np.ndarray = np.ndarray(shape, dtype, memory, 0, strides)
    return seen
