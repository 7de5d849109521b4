"""Numbers on a command line: types for argparse that refuse what no command can mean."""

from __future__ import annotations

import argparse
import math


def positive_integer(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_integers(text: str) -> tuple[int, ...]:
    """``1,8,32``."""
    return tuple(positive_integer(part) for part in text.split(","))


def positive_seconds(text: str) -> float:
    """A finite time above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0")
    return value
