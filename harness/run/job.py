"""The order from the launcher to one measured process, as a JSON file in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    ``role`` is ``measured`` (warm up, then the workload) or ``reference`` (every recording once,
    for its output, not its speed). ``message_fd`` is the inherited write end of the message pipe.
    """

    role: str
    process: int
    block: int | None
    folder: str
    manifest: str
    config: Mapping[str, Any]
    message_fd: int
    trace: str | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))
