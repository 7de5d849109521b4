"""Words on a command line: types for argparse that refuse, at the start, what no command can mean or do."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path


def positive_integer(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_integers(text: str) -> tuple[int, ...]:
    """``1,8,32``."""
    return tuple(positive_integer(part) for part in text.split(","))


def positive_number(text: str) -> float:
    """Finite, above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def positive_seconds(text: str) -> float:
    """A finite time above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0")
    return value


def share(text: str) -> float:
    """From 0 to 1, such as 0.05."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return value


def result_file(text: str) -> Path:
    """Where results will be written once they are measured: now is the time to say that they cannot be."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written; change its permissions or name another")
    return path
