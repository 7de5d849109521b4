"""Jobs of the backend as futures of the loop: what the handlers of one HTTP server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from variants.topology.types import Backend, Completion, CompletionQueue, Job


class Jobs:
    """For the loop's thread alone, but for the completions, which come from the backend's."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._completions = CompletionQueue()

    def fileno(self) -> int:
        """Readable when ``complete`` has something to do."""
        return self._completions.fileno()

    def submit(self, job: Callable[[Any], Job]) -> asyncio.Future[Completion]:
        """Hand ``job(token)`` in. Raises ``Busy``, or what a backend raises that is down."""
        answered: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self.backend.submit(job(answered), self._completions.put)
        return answered

    def complete(self) -> None:
        for completion in self._completions.drain():
            answered = completion.job.token
            if not answered.done():  # cancelled, where the server goes down
                answered.set_result(completion)

    def close(self) -> None:
        self._completions.close()
