"""``cuda.bindings`` with exceptions. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from harness.errors import HarnessError, UnavailableError


class CudaError(HarnessError):
    """A call of CUDA failed; the message holds the call, the code and what it means."""


def load(part: str) -> Any:
    """``driver``, ``runtime`` or ``nvrtc``. Raises ``UnavailableError`` where it is not installed."""
    try:
        return importlib.import_module(f"cuda.bindings.{part}")
    except ImportError as error:
        raise UnavailableError(
            f"cuda-python is missing ({error}): install it with pip install 'cuda-python>=12.6'"
        ) from error


def major_version() -> int:
    """Of the installed bindings."""
    return int(importlib.import_module("cuda.bindings").__version__.split(".")[0])


def call(function: Any, *arguments: Any) -> Any:
    """Call and return the results without the status: one as it is, several as a tuple, none as ()."""
    status, *results = function(*arguments)
    if int(status) != 0:
        name = getattr(function, "__name__", str(function))
        raise CudaError(f"{name} failed: {_describe(status)}")
    return results[0] if len(results) == 1 else tuple(results)


def _describe(status: Any) -> str:
    name = str(getattr(status, "name", status))
    if type(status).__name__ != "CUresult":
        return name
    _, text = load("driver").cuGetErrorString(status)
    return f"{name} ({text.decode() if text else 'no description'})"
