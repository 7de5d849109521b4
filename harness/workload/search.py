"""The largest load that a server carries, by bracketing."""

from __future__ import annotations

from collections.abc import Callable


def bracket(
    passes: Callable[[int], bool], start: int, most: int, resolution: float = 0.05
) -> tuple[int, int]:
    """A load that passes (0: none needed trying) and one that fails; equal where ``most`` passes.

    Doubles from ``start`` until one fails (or halves until one passes), then bisects the bracket down to
    ``resolution`` of its lower end.
    """
    low, high = _ends(passes, min(max(1, start), most), most)
    while high - low > max(1, int(low * resolution)):
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low, high


def _ends(passes: Callable[[int], bool], start: int, most: int) -> tuple[int, int]:
    if passes(start):
        low = start
        while low < most:
            high = min(2 * low, most)
            if not passes(high):
                return low, high
            low = high
        return low, low
    high = start
    while high > 1:
        low = high // 2
        if passes(low):
            return low, high
        high = low
    return 0, 1
