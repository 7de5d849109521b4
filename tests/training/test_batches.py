"""Batches hold the corpus's own samples, in order, between the silences that they were planned with."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from training.batches import Batches, plan_items
from training.data import SAMPLE_RATE, Corpus

CPU = torch.device("cpu")


def test_an_epoch_says_every_clip_once(corpus: Corpus) -> None:
    order = np.random.default_rng(0).permutation(len(corpus.lengths))
    items = plan_items(order, corpus.lengths, np.random.default_rng(1))
    assert sorted(clip for item in items for clip in item.clips) == list(range(len(corpus.lengths)))
    assert all(len(item.silences) == len(item.clips) + 1 for item in items)
    assert {min(len(item.clips), 4) for item in items} >= {1, 2, 3, 4}
    assert max(item.samples for item in items) < 30 * SAMPLE_RATE


def test_a_row_is_its_clips_between_silences(corpus: Corpus) -> None:
    """Each row's sound is found again in the corpus, sample for sample."""
    batch = next(iter(Batches(corpus, 60.0, CPU, seed=4)))
    spoken = {text: number for number, text in enumerate(corpus.texts)}
    checked = 0
    for row, length, text in zip(batch.samples, batch.lengths.tolist(), batch.texts, strict=True):
        assert row[length:].abs().sum() == 0
        if text in spoken:
            start = int(corpus.offsets[spoken[text]])
            clip = corpus.audio[start : start + int(corpus.lengths[spoken[text]])].astype(np.float32) / 32768
            core = clip[2200:-2200]  # beyond what an edge may cut
            windows = np.lib.stride_tricks.sliding_window_view(row[:length].numpy(), len(core))
            assert (windows == core).all(axis=1).sum() == 1
            checked += 1
    assert checked > 0


def test_the_same_seed_gives_the_same_batches(corpus: Corpus) -> None:
    first, again, other = (
        [(batch.texts, batch.samples) for batch in islice(Batches(corpus, 30.0, CPU, seed), 12)]
        for seed in (1, 1, 2)
    )
    for (texts, samples), (same_texts, same_samples) in zip(first, again, strict=True):
        assert texts == same_texts
        assert torch.equal(samples, same_samples)
    assert [texts for texts, _ in first] != [texts for texts, _ in other]


def test_a_batch_holds_about_as_much_speech_as_asked(corpus: Corpus) -> None:
    for batch in islice(Batches(corpus, 60.0, CPU, seed=0), 20):
        assert batch.samples.numel() <= 60 * SAMPLE_RATE or len(batch.texts) == 1
