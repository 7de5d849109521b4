"""The audio set that a run's configuration names."""

from __future__ import annotations

from pathlib import Path

from harness.config.schema import RunConfig
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import AudioSet
from harness.paths import datasets_dir


def audio_set_of(config: RunConfig) -> AudioSet:
    """Rendered, or taken from the cache or the manifest; with a progress bar. See ``load_audio_set``."""
    return load_audio_set(
        config.dataset.name,
        Path(config.dataset.manifest) if config.dataset.manifest else None,
        specs_dir=datasets_dir(),
        cache_dir=Path(config.runner.cache_dir),
        items=config.dataset.items,
        seed=config.dataset.seed,
        progress=True,
        max_audio_s=config.frontend["max_audio_s"],
    )
