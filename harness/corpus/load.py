"""The audio set that a run asks for: one of the project's, or the user's own recordings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from harness.corpus.buckets import DEFAULT_EDGES_S, bucket_label
from harness.corpus.listen import Heard, listen
from harness.corpus.manifest import AudioItem, AudioSet, Row, content_hash, read_rows, sha256_of
from harness.corpus.render import render, with_overrides
from harness.corpus.spec import available, load_spec
from harness.errors import UsageError
from harness.files import expanded

_UNKNOWN_CONTAINER = "unknown"
_WARNINGS = 5
_TOLERANCE_S = 0.1
_TOLERANCE_SHARE = 0.01
"""A manifest's length may be off by the larger of the two: encoder delay, rounding."""


def load_audio_set(
    name: str | None,
    manifest: str | Path | None,
    specs_dir: Path,
    cache_dir: Path,
    items: int | None = None,
    seed: int | None = None,
    progress: bool = False,
    max_audio_s: float = math.inf,
) -> AudioSet:
    """The set ``name`` of ``specs_dir``, rendered into ``cache_dir`` if need be, or a manifest's set.

    ``items`` and ``seed`` replace the specification's. Of a manifest, ``items`` takes the first ones,
    or with ``seed`` a random choice; recordings longer than ``max_audio_s`` have no known length. Raises
    ``UsageError`` for anything that the user has to change.
    """
    if (name is None) == (manifest is None):
        sets = ", ".join(available(specs_dir))
        raise UsageError(
            f"give either dataset=NAME (of {sets}) or dataset.manifest=FILE.jsonl, not both or none"
        )
    if manifest is not None:
        path = expanded(manifest)
        rows = _choice(path, read_rows(path), items, seed)
        return _own(path, rows, cache_dir, max_audio_s, progress)
    return render(with_overrides(load_spec(str(name), specs_dir), items, seed), cache_dir, progress)


def _choice(path: Path, rows: Sequence[Row], count: int | None, seed: int | None) -> Sequence[Row]:
    """``count`` rows in the manifest's order: the first ones, or a random choice with a seed."""
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise UsageError(f"dataset.items={count}: {path} has {len(rows)} recordings")
    chosen: Iterable[int] = range(count)
    if seed is not None:
        chosen = sorted(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())
    return [rows[index] for index in chosen]


def _own(path: Path, rows: Sequence[Row], cache_dir: Path, max_audio_s: float, progress: bool) -> AudioSet:
    """The set of a user's recordings: every file is hashed, and as long as its decoder finds it."""
    digests = [sha256_of(row.path) for row in rows]
    readable = {digest: row.path for digest, row in zip(digests, rows, strict=True) if digest is not None}
    heard = listen(readable, cache_dir, max_audio_s, progress)
    sounds = [Heard() if digest is None else heard[digest] for digest in digests]
    items = tuple(map(_item, rows, digests, sounds))
    warnings = (*_disagreements(path, rows, sounds), *_odd(path, rows, sounds))
    return AudioSet(path.stem, items, content_hash(items), path.parent, warnings=warnings)


def _item(row: Row, digest: str | None, heard: Heard) -> AudioItem:
    return AudioItem(
        item_id=row.item_id,
        path=row.path,
        duration_s=heard.duration_s,
        text=row.text,
        container=row.path.suffix.removeprefix(".").lower() or _UNKNOWN_CONTAINER,
        sample_rate=heard.sample_rate,
        channels=heard.channels,
        bucket=bucket_label(heard.duration_s, DEFAULT_EDGES_S),
        speech_s=row.speech_s,
        snr_db=row.snr_db,
        rt60_s=row.rt60_s,
        voice=row.voice,
        expect_failure=row.expect_failure,
        sha256=digest,
        size_bytes=row.path.stat().st_size if digest is not None else None,
    )


def _disagreements(path: Path, rows: Sequence[Row], sounds: Sequence[Heard]) -> list[str]:
    """The lines whose length is not what was decoded."""
    lines = [
        f"{path.name}, line {row.line}: the manifest says {row.duration_s:g} s, decoded are "
        f"{heard.duration_s:.2f} s; what was decoded counts"
        for row, heard in zip(rows, sounds, strict=True)
        if _disagree(row.duration_s, heard.duration_s)
    ]
    return _first(path, lines, "so do", f"{len(rows)} lines")


def _disagree(claimed_s: float | None, heard_s: float | None) -> bool:
    if claimed_s is None or heard_s is None:
        return False
    return abs(claimed_s - heard_s) > max(_TOLERANCE_S, _TOLERANCE_SHARE * heard_s)


def _odd(path: Path, rows: Sequence[Row], sounds: Sequence[Heard]) -> list[str]:
    """What is odd about the sound of a line's recording."""
    lines = [
        f"{path.name}, line {row.line}: {heard.warning}"
        for row, heard in zip(rows, sounds, strict=True)
        if heard.warning is not None
    ]
    return _first(path, lines, "so are", "recordings")


def _first(path: Path, lines: Sequence[str], so: str, whole: str) -> list[str]:
    """The first ones, and how many more there are."""
    left = len(lines) - _WARNINGS
    more = [f"{path.name}: {so} {left} more of its {whole}"] if left > 0 else []
    return [*lines[:_WARNINGS], *more]
