"""A small corpus and a small architecture, for tests of training on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.data import Corpus, load_corpus, render_corpus
from variants.models.parakeet import PARAKEET_TINY, TdtArchitecture


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough sentences for a vocabulary, few enough to speak in seconds."""
    folder = tmp_path_factory.mktemp("corpus")
    render_corpus(folder, clips=120, seed=3, workers=1, vocabulary=96)
    return folder


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Corpus:
    return load_corpus(corpus_folder)


@pytest.fixture(scope="session")
def architecture() -> TdtArchitecture:
    """The shape of the tiny model at a fiftieth of its size."""
    return replace(
        PARAKEET_TINY,
        feature_bins=64,
        d_model=96,
        layers=3,
        heads=2,
        subsampling_channels=24,
        vocab_size=96,
        pred_hidden=96,
        joint_hidden=96,
    )
