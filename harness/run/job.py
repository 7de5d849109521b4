"""The order from the launcher to one measured process. Picklable."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus.manifest import AudioSet


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    ``role`` is ``measured`` (warm up, then the workload) or ``reference`` (every recording once,
    for its output, not its speed). ``alone`` is false for one that takes turns with others.
    """

    role: str
    process: int
    block: int | None
    folder: str
    audio_set: str
    config: Mapping[str, Any]
    trace: str | None = None
    alone: bool = True
    stopped: str | None = None
    """The folder of an offline run that was stopped: what it has done is not done again."""

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
