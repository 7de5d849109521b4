"""The audio set that a run asks for: one of the project's, or the user's own recordings."""

from __future__ import annotations

from pathlib import Path

from harness.corpus.manifest import AudioSet, read_manifest
from harness.corpus.render import render, with_overrides
from harness.corpus.spec import available, load_spec
from harness.errors import UsageError


def load_audio_set(
    name: str | None,
    manifest: str | Path | None,
    specs_dir: Path,
    cache_dir: Path,
    items: int | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> AudioSet:
    """The set ``name`` of ``specs_dir``, rendered into ``cache_dir`` if need be, or a manifest's set.

    ``items`` and ``seed`` replace the specification's. Of a manifest, ``items`` takes the first ones,
    or with ``seed`` a random choice. Raises ``UsageError`` for anything that the user has to change.
    """
    if (name is None) == (manifest is None):
        sets = ", ".join(available(specs_dir))
        raise UsageError(
            f"give either dataset=NAME (of {sets}) or dataset.manifest=FILE.jsonl, not both or none"
        )
    if manifest is not None:
        own = read_manifest(Path(manifest).expanduser())
        return own if items is None else own.take(items, seed)
    return render(with_overrides(load_spec(str(name), specs_dir), items, seed), cache_dir, progress)
