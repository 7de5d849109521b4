"""Audio sets as manifests: JSON Lines with NeMo's fields (audio_filepath, duration, text) and ours.

A user's own manifest needs ``audio_filepath`` alone. A recording that is missing, empty or not audio
stays in the set: it fails as a row of the results, not before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from harness.corpus.buckets import DEFAULT_EDGES_S, bucket_label
from harness.errors import RequestError, UsageError

MANIFEST_NAME = "manifest.jsonl"
UNKNOWN_CONTAINER = "unknown"


@dataclass(frozen=True, slots=True)
class AudioItem:
    """One recording. None stands for what is not known; ``text`` is what was said, if transcribed.

    ``speech_s`` is spoken time without pauses, ``voice`` the names of the speakers, comma-separated,
    ``sha256`` the hash of the file (None where it cannot be read), ``size_bytes`` its size. A recording
    that is to be refused says so by ``expect_failure``.
    """

    item_id: str
    path: Path
    duration_s: float | None
    text: str | None
    container: str
    sample_rate: int | None
    channels: int | None
    bucket: str
    speech_s: float | None = None
    snr_db: float | None = None
    rt60_s: float | None = None
    voice: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    expect_failure: bool = False

    def read(self) -> bytes:
        """The container's bytes. Raises ``RequestError`` where the file cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise RequestError(f"{self.path}: cannot read the recording ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class AudioSet:
    """Recordings in order. ``content_hash`` covers their bytes, lengths and texts, not where they lie."""

    name: str
    items: tuple[AudioItem, ...]
    content_hash: str
    root: Path
    bucket_edges_s: tuple[float, ...] = DEFAULT_EDGES_S

    @property
    def audio_s(self) -> float:
        """Seconds of audio in all, over the recordings whose length is known."""
        return math.fsum(item.duration_s for item in self.items if item.duration_s is not None)

    def take(self, count: int, seed: int | None) -> AudioSet:
        """``count`` recordings in the set's order: the first ones, or a random choice with a seed.

        Raises ``UsageError`` where the set has fewer.
        """
        if not 1 <= count <= len(self.items):
            raise UsageError(
                f"dataset.items={count}: audio set {self.name!r} has {len(self.items)} recordings"
            )
        chosen: Iterable[int] = range(count)
        if seed is not None:
            chosen = sorted(np.random.default_rng(seed).permutation(len(self.items))[:count].tolist())
        items = tuple(self.items[index] for index in chosen)
        return replace(self, items=items, content_hash=content_hash(items))


def read_manifest(path: Path, bucket_edges_s: Sequence[float] = DEFAULT_EDGES_S) -> AudioSet:
    """A set of the user's own recordings; relative paths are relative to the manifest.

    What the manifest does not say about a recording is read from its header. Every file is hashed.
    Raises ``UsageError`` that names the file and the line.
    """
    edges = tuple(bucket_edges_s)
    items = tuple(_item(path, number, entry, edges) for number, entry in _entries(path))
    if not items:
        raise UsageError(f"{path}: the manifest is empty; give one JSON object a line with audio_filepath")
    return AudioSet(path.stem, items, content_hash(items), path.parent, edges)


def read_rendered(folder: Path, name: str, bucket_edges_s: tuple[float, ...]) -> AudioSet:
    """A set that ``write_manifest`` described, taken at its word but for the files' sizes.

    Raises ``UsageError`` that names a recording that is missing or has another size than it had.
    """
    items = tuple(_rendered_item(folder, entry) for _, entry in _entries(folder / MANIFEST_NAME))
    for item in items:
        if not item.path.is_file() or item.path.stat().st_size != item.size_bytes:
            raise UsageError(
                f"{item.path}: missing or altered; delete {folder} to render the audio set again"
            )
    return AudioSet(name, items, content_hash(items), folder, bucket_edges_s)


def write_manifest(path: Path, items: Iterable[AudioItem]) -> None:
    """One line a recording, paths relative to the manifest's folder."""
    lines = (json.dumps(_entry(item, path.parent), ensure_ascii=False) for item in items)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def content_hash(items: Iterable[AudioItem]) -> str:
    """SHA-256 over every recording's bytes (by hash), length and text, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.sha256, item.duration_s, item.text]).encode())
    return digest.hexdigest()


def _entry(item: AudioItem, root: Path) -> dict[str, Any]:
    fields = asdict(item)
    fields["audio_filepath"] = str(fields.pop("path").relative_to(root))
    fields["duration"] = fields.pop("duration_s")
    first = ("audio_filepath", "duration", "text")
    return {key: fields[key] for key in (*first, *(key for key in fields if key not in first))}


def _rendered_item(folder: Path, entry: Mapping[str, Any]) -> AudioItem:
    fields = dict(entry)
    path = folder / fields.pop("audio_filepath")
    return AudioItem(path=path, duration_s=fields.pop("duration"), **fields)


def _entries(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """(line number from 1, object) of every line that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the manifest ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    return [(number, _object(path, number, line)) for number, line in enumerate(lines, 1) if line.strip()]


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise _refusal(path, number, f"not JSON ({error.msg}); give one JSON object a line") from error
    if not isinstance(entry, dict):
        raise _refusal(path, number, "not a JSON object; give one with audio_filepath")
    return entry


def _item(path: Path, number: int, entry: Mapping[str, Any], edges_s: tuple[float, ...]) -> AudioItem:
    audio = _audio_path(path, number, entry)
    header = _read_header(audio)
    duration_s = _duration(path, number, entry)
    if duration_s is None:
        duration_s = header.duration_s
    return AudioItem(
        item_id=str(entry.get("item_id", f"{number:06d}")),
        path=audio,
        duration_s=duration_s,
        text=_text(path, number, entry),
        container=header.container,
        sample_rate=_whole(path, number, entry, "sample_rate") or header.sample_rate,
        channels=_whole(path, number, entry, "channels") or header.channels,
        bucket=bucket_label(duration_s, edges_s),
        speech_s=_optional_number(path, number, entry, "speech_s"),
        snr_db=_optional_number(path, number, entry, "snr_db"),
        rt60_s=_optional_number(path, number, entry, "rt60_s"),
        voice=entry.get("voice"),
        sha256=_sha256(audio),
        size_bytes=audio.stat().st_size if audio.is_file() else None,
        expect_failure=_flag(path, number, entry, "expect_failure"),
    )


def _audio_path(path: Path, number: int, entry: Mapping[str, Any]) -> Path:
    name = entry.get("audio_filepath")
    if not isinstance(name, str) or not name:
        raise _refusal(path, number, "audio_filepath is missing; give the path of the recording")
    if entry.get("offset"):
        raise _refusal(
            path, number, "offset is not supported; cut the recording into files of their own first"
        )
    return path.parent / Path(name).expanduser()


def _duration(path: Path, number: int, entry: Mapping[str, Any]) -> float | None:
    seconds = _optional_number(path, number, entry, "duration")
    if seconds is not None and seconds < 0:
        raise _refusal(path, number, f"duration is {seconds}; give seconds, or leave it out")
    return seconds


def _text(path: Path, number: int, entry: Mapping[str, Any]) -> str | None:
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise _refusal(path, number, f"text is {text!r}; give the transcript in quotes, or leave it out")
    return text


def _optional_number(path: Path, number: int, entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refusal(path, number, f"{key} is {value!r}; give a number, or leave it out")
    return float(value)


def _flag(path: Path, number: int, entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise _refusal(path, number, f"{key} is {value!r}; give true or false, or leave it out")
    return value


def _whole(path: Path, number: int, entry: Mapping[str, Any], key: str) -> int | None:
    value = _optional_number(path, number, entry, key)
    return None if value is None else int(value)


def _refusal(path: Path, number: int, message: str) -> UsageError:
    return UsageError(f"{path}, line {number}: {message}")


@dataclass(frozen=True, slots=True)
class _Header:
    container: str
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None


def _read_header(path: Path) -> _Header:
    """What the file says about itself; the suffix alone where it is no audio that FFmpeg knows."""
    container = path.suffix.removeprefix(".").lower() or UNKNOWN_CONTAINER
    try:
        with av.open(str(path)) as file:
            if not file.streams.audio:
                return _Header(container)
            stream = file.streams.audio[0]
            duration_s = file.duration / av.time_base if file.duration is not None else None
            return _Header(
                container, duration_s, stream.codec_context.sample_rate, stream.codec_context.channels
            )
    except (av.FFmpegError, OSError, ValueError):
        return _Header(container)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
