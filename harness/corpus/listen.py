"""How long recordings are: each is decoded once, and the answer is kept by the hash of its bytes.

What a container or a manifest says of a length is a claim. A recording that ends its decoder's process
costs its own answer and nothing else (``harness.audio.isolated``).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from harness.audio.decode import heard
from harness.audio.limits import Limits
from harness.corpus.manifest import open_recording
from harness.errors import RequestError
from harness.files import explained, write_text

_MEMORY = "heard.json"


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording as its decoder gave it; all None where it cannot be decoded."""

    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    warning: str | None = None
    """What its sender should know: channels that cancel each other, say."""


def listen(
    recordings: Mapping[str, Path], cache_dir: Path, max_audio_s: float, progress: bool
) -> dict[str, Heard]:
    """What each of ``recordings`` (by hash) sounds like; those longer than ``max_audio_s`` are not decoded.

    Raises ``UsageError`` that names ``cache_dir`` where nothing can be kept in it.
    """
    memory = _Memory(cache_dir)
    known = {digest: memory.heard[digest] for digest in recordings if digest in memory.heard}
    unknown = {digest: path for digest, path in recordings.items() if digest not in known}
    found = dict(zip(unknown, _decoded(unknown.values(), max_audio_s, progress), strict=True))
    memory.keep({digest: heard for digest, heard in found.items() if heard.duration_s is not None})
    return {digest: _within(heard, max_audio_s) for digest, heard in {**known, **found}.items()}


def _within(heard: Heard, max_audio_s: float) -> Heard:
    """A remembered recording may be longer than what this run accepts."""
    return heard if (heard.duration_s or 0.0) <= max_audio_s else Heard()


def _decoded(paths: Iterable[Path], max_audio_s: float, progress: bool) -> Iterator[Heard]:
    limits, waiting = Limits(max_audio_s=max_audio_s), list(paths)
    for path in tqdm(waiting, "listening to the recordings", unit="file", disable=not (progress and waiting)):
        yield _hear(path, limits)


def _hear(path: Path, limits: Limits) -> Heard:
    try:
        with open_recording(path) as file:
            payload = file.read()
        found = heard(payload, limits)
    except (RequestError, OSError):
        return Heard()
    return Heard(found.length_s, found.source_rate, found.channels, "; ".join(found.warnings) or None)


class _Memory:
    """Answers of earlier loads, as long as the decoder is the same."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / _MEMORY
        self.heard = self._read()

    def keep(self, found: Mapping[str, Heard]) -> None:
        """Beside what others have kept meanwhile; of two that keep at once, one has to listen again."""
        if not found:
            return
        kept = {digest: asdict(heard) for digest, heard in {**self._read(), **found}.items()}
        with explained(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps({"decoder": _decoder(), "recordings": kept}))

    def _read(self) -> dict[str, Heard]:
        try:
            document = json.loads(self._path.read_bytes())
            if document["decoder"] != _decoder():
                return {}
            return {digest: Heard(**heard) for digest, heard in document["recordings"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # none, or damaged: it can be made anew


def _decoder() -> str:
    """FFmpeg's libraries, and our code around them."""
    code = sorted(Path(inspect.getfile(heard)).parent.glob("*.py"))
    source = hashlib.sha256(b"\0".join(path.read_bytes() for path in code)).hexdigest()
    return f"av {version('av')}, {source}"
