"""What a batching choice says of what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Any

from variants.batching.bounds import Size, Waiting


class Counts:
    """What was put together, and what it waited. Times are from the first batch's beginning to the last
    one's end."""

    def __init__(self) -> None:
        self._batches = 0
        self.taken_apart = 0
        self._busy_ns = 0
        self._first_ns: int | None = None
        self._last_ns = 0
        self._sizes: Counter[int] = Counter()
        self._valid = self._padded = 0
        self._waited_ns = self._longest_wait_ns = 0
        self._most_passed_over = 0

    def computed(self, began_ns: int, ended_ns: int) -> None:
        self._first_ns = began_ns if self._first_ns is None else self._first_ns
        self._last_ns = ended_ns
        self._busy_ns += ended_ns - began_ns

    def add(self, batch: Sequence[Waiting], began_ns: int) -> None:
        self._batches += 1
        self._sizes[len(batch)] += 1
        size = reduce(Size.joined, map(Size.of, batch))
        self._valid += size.total
        self._padded += size.area
        for each in batch:
            self._waited_ns += began_ns - each.idle_from_ns
            self._longest_wait_ns = max(self._longest_wait_ns, began_ns - each.idle_from_ns)
            self._most_passed_over = max(self._most_passed_over, each.passed_over)

    def evidence(self, kind: str) -> dict[str, Any]:
        works = sum(size * count for size, count in self._sizes.items())
        lasted_ns = 0 if self._first_ns is None else self._last_ns - self._first_ns
        return {
            kind: works,
            "batches": self._batches,
            "batches_by_size": {str(size): count for size, count in sorted(self._sizes.items())},
            "batches_taken_apart": self.taken_apart,
            "padding_share": 1.0 - self._valid / self._padded if self._padded else 0.0,
            "mean_wait_s": self._waited_ns * 1e-9 / works if works else 0.0,
            "longest_wait_s": self._longest_wait_ns * 1e-9,
            "most_passed_over": self._most_passed_over,
            "busy_share": self._busy_ns / lasted_ns if lasted_ns else 0.0,
            "idle_share": 1.0 - self._busy_ns / lasted_ns if lasted_ns else 0.0,
        }
