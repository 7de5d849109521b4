"""The order from the launcher to one measured process, as a JSON file in the run's folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.corpus.manifest import AudioSet


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
    audio_set: str
    config: Mapping[str, Any]
    message_fd: int
    trace: str | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))

    def audio(self) -> AudioSet:
        """The recordings, as the launcher wrote them with ``write_audio_set``."""
        with Path(self.audio_set).open("rb") as file:
            audio: AudioSet = pickle.load(file)
        return audio


def write_audio_set(audio: AudioSet, path: Path) -> Path:
    """Hand the set to the processes as it is: they need not hash and probe every file again."""
    with path.open("wb") as file:
        pickle.dump(audio, file)
    return path
