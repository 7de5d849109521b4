"""The order from the launcher to one measured process, as a JSON file in the run's folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.corpus.manifest import AudioSet
from harness.run.turns import Place


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    ``role`` is ``measured`` (warm up, then the workload) or ``reference`` (every recording once,
    for its output, not its speed). ``message_fd`` is the inherited write end of the message pipe,
    ``place`` the process's place among those that take turns (null where it is measured alone).
    """

    role: str
    process: int
    block: int | None
    folder: str
    audio_set: str
    config: Mapping[str, Any]
    message_fd: int
    trace: str | None = None
    place: Place | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        fields = json.loads(path.read_text())
        place = fields.pop("place")
        return cls(**fields, place=None if place is None else Place(**place))

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
