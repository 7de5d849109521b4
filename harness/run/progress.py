"""What a person sees while a run is under way: one bar per step, on stderr."""

from __future__ import annotations

import sys

from tqdm import tqdm

from harness.printable import one_line
from harness.run.messages import Message


class Progress:
    """Shows the steps of one process under a title. Silent where stderr is no terminal, except for
    one line per step, so that a CI log says how far it came."""

    def __init__(self, title: str) -> None:
        self._title = one_line(title)
        self._bar: tqdm[None] | None = None

    def show(self, message: Message) -> None:
        if message.kind == "stage":
            self._open(message.text, message.total)
        elif message.kind == "progress" and self._bar is not None:
            self._bar.set_postfix_str(message.text, refresh=False)
            self._bar.update(message.done - self._bar.n)

    def fail(self, why: str) -> None:
        """Said at once: the others may go on for hours."""
        self.close()
        print(f"{self._title}: failed, the others go on: {why}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, text: str, total: int) -> None:
        self.close()
        label = f"{self._title}: {text}"
        if total and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit="", leave=False)
        else:
            print(label, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
