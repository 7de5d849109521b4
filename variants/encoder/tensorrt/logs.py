"""TensorRT's logger, so that what it says about a failure reaches the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_KEPT = 20


class Messages:
    """Errors and warnings, the last few of each."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.heard: Callable[[str], None] | None = None
        """Gets every message, of whatever severity."""

    def add(self, severity: str, text: str) -> None:
        if self.heard is not None:
            self.heard(text)
        kept = {"INTERNAL_ERROR": self.errors, "ERROR": self.errors, "WARNING": self.warnings}.get(severity)
        if kept is not None:
            kept.append(text.strip())
            del kept[:-_KEPT]

    def explain(self) -> str:
        """The errors in one line, or that there were none."""
        return "; ".join(self.errors) or "TensorRT's logger gave no reason"


def make_logger(trt: Any, messages: Messages) -> Any:
    """A ``trt.ILogger`` that fills ``messages`` instead of writing to the terminal."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.add(str(severity).rsplit(".", 1)[-1], msg)

    return Logger()
