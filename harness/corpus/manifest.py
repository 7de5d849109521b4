"""Audio sets as manifests: JSON Lines with NeMo's fields (audio_filepath, duration, text) and ours.

A user's own manifest needs ``audio_filepath`` alone. A line that cannot be understood is refused by its
number; a recording that is missing, empty, not audio or no file at all stays in the set: it fails as a row
of the results, not before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from harness.corpus.buckets import DEFAULT_EDGES_S
from harness.errors import RequestError, UsageError
from harness.files import expanded, open_regular

MANIFEST_NAME = "manifest.jsonl"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST = 1e12
"""No second or decibel of a recording; NaN is not below it."""
_LARGEST_BYTES = 4 << 30
"""What RIFF can count; two hours of stereo at 48 kHz in floats are less. It is read into memory."""


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
        """The container's bytes. Raises ``RequestError`` where they cannot be read, or are not those that
        the set's content hash covers."""
        try:
            with open_recording(self.path) as file:
                payload = file.read()
        except OSError as error:
            raise RequestError(f"{self.path.name}: cannot read the recording ({error.strerror})") from error
        if self.sha256 is not None and hashlib.sha256(payload).hexdigest() != self.sha256:
            raise RequestError(f"{self.path.name}: altered since the audio set was loaded; measure again")
        return payload


@dataclass(frozen=True, slots=True)
class AudioSet:
    """Recordings in order. ``content_hash`` covers their bytes, lengths and texts, not where they lie.

    ``warnings`` say, by line, where a manifest was not taken at its word.
    """

    name: str
    items: tuple[AudioItem, ...]
    content_hash: str
    root: Path
    bucket_edges_s: tuple[float, ...] = DEFAULT_EDGES_S
    warnings: tuple[str, ...] = ()

    @property
    def audio_s(self) -> float:
        """Seconds of audio in all, over the recordings whose length is known."""
        return math.fsum(item.duration_s for item in self.items if item.duration_s is not None)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a user's manifest. What it says of the sound is the manifest's claim."""

    line: int
    item_id: str
    path: Path
    duration_s: float | None
    text: str | None
    speech_s: float | None
    snr_db: float | None
    rt60_s: float | None
    voice: str | None
    expect_failure: bool


def read_rows(path: Path) -> tuple[Row, ...]:
    """Every line of a user's manifest, checked; relative paths are relative to it. No recording is opened.

    Raises ``UsageError`` that names the file and the line.
    """
    rows = tuple(_row(path, number, entry) for number, entry in _entries(path))
    if not rows:
        raise UsageError(f"{path}: the manifest is empty; give one JSON object a line with audio_filepath")
    lines: dict[str, int] = {}
    for row in rows:
        if (first := lines.setdefault(row.item_id, row.line)) != row.line:
            raise _refusal(path, row.line, f"item_id {row.item_id!r} is that of line {first}; give another")
    return rows


def read_rendered(folder: Path, name: str, bucket_edges_s: tuple[float, ...]) -> AudioSet:
    """A set that ``write_manifest`` described, taken at its word but for the files' bytes.

    Raises ``UsageError`` that names a recording that is missing or not what it was.
    """
    items = tuple(_rendered_item(folder, entry) for _, entry in _entries(folder / MANIFEST_NAME))
    for item in items:
        if sha256_of(item.path) != item.sha256:
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
    """(line number from 1, object) of every line that is not blank.

    Lines end with a newline: the other characters that Unicode ends lines with may stand in a text.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot read the manifest ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    return [(number, _object(path, number, line)) for number, line in enumerate(lines, 1) if line.strip()]


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except RecursionError as error:
        raise _refusal(path, number, "nested too deeply; give one flat JSON object a line") from error
    except ValueError as error:  # not JSON, or a number of thousands of digits
        reason = getattr(error, "msg", "a number is too long")
        raise _refusal(path, number, f"not JSON ({reason}); give one JSON object a line") from error
    if not isinstance(entry, dict):
        raise _refusal(path, number, "not a JSON object; give one with audio_filepath")
    return entry


def _row(path: Path, number: int, entry: Mapping[str, Any]) -> Row:
    return Row(
        line=number,
        item_id=_item_id(path, number, entry),
        path=_audio_path(path, number, entry),
        duration_s=_duration(path, number, entry),
        text=_string(path, number, entry, "text"),
        speech_s=_number(path, number, entry, "speech_s"),
        snr_db=_number(path, number, entry, "snr_db"),
        rt60_s=_number(path, number, entry, "rt60_s"),
        voice=_string(path, number, entry, "voice"),
        expect_failure=_flag(path, number, entry, "expect_failure"),
    )


def _item_id(path: Path, number: int, entry: Mapping[str, Any]) -> str:
    """The row's own, or its line number."""
    given = entry.get("item_id")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return _string(path, number, entry, "item_id") or f"{number:06d}"


def _audio_path(path: Path, number: int, entry: Mapping[str, Any]) -> Path:
    name = _string(path, number, entry, "audio_filepath")
    if not name:
        raise _refusal(path, number, "audio_filepath is missing; give the path of the recording")
    if "\0" in name:
        raise _refusal(path, number, f"audio_filepath is {name!r:.60}; no file's name holds a NUL")
    if entry.get("offset"):
        raise _refusal(
            path, number, "offset is not supported; cut the recording into files of their own first"
        )
    return path.parent / expanded(name)


def _duration(path: Path, number: int, entry: Mapping[str, Any]) -> float | None:
    seconds = _number(path, number, entry, "duration")
    if seconds is not None and seconds < 0:
        raise _refusal(path, number, f"duration is {seconds}; give seconds, or leave it out")
    return seconds


def _string(path: Path, number: int, entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _refusal(path, number, f"{key} is {value!r:.60}; give text in quotes")
    if _SURROGATE.search(value):
        raise _refusal(path, number, f"{key} holds half of a UTF-16 pair (\\ud800 to \\udfff); write UTF-8")
    return value


def _number(path: Path, number: int, entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise _refusal(path, number, f"{key} is {value!r:.60}; give a number, or leave it out")
    return float(value)


def _flag(path: Path, number: int, entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise _refusal(path, number, f"{key} is {value!r}; give true or false, or leave it out")
    return value


def _refusal(path: Path, number: int, message: str) -> UsageError:
    return UsageError(f"{path}, line {number}: {message}")


def open_recording(path: Path) -> BufferedReader:
    """A regular file that fits into memory. Raises ``OSError`` for anything else."""
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size <= _LARGEST_BYTES:
        return file
    file.close()
    raise OSError(errno.EFBIG, f"larger than {_LARGEST_BYTES >> 30} GiB; split it", str(path))


def sha256_of(path: Path) -> str | None:
    """The hash of a recording; None where it cannot be read."""
    try:
        with open_recording(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
