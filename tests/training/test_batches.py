"""Batches hold the corpus's own samples, in order, between the silences that they were planned with."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from harness.errors import UsageError
from training.batches import WIDTHS_S, Batches, plan_items, rows_of, width_for
from training.data import SAMPLE_RATE, Corpus

CPU = torch.device("cpu")


def test_an_epoch_says_every_clip_once(corpus: Corpus) -> None:
    order = np.random.default_rng(0).permutation(len(corpus.lengths))
    items = list(plan_items(order, corpus.lengths, np.random.default_rng(1)))
    assert sorted(clip for item in items for clip in item.clips) == list(range(len(corpus.lengths)))
    assert all(len(item.silences) == len(item.clips) + 1 for item in items)
    assert {min(len(item.clips), 4) for item in items} >= {1, 2, 3, 4}
    assert max(item.samples for item in items) <= WIDTHS_S[-1] * SAMPLE_RATE


def test_a_row_is_its_clips_between_silences(corpus: Corpus) -> None:
    """Each single sentence is found again in its row, sample for sample, silence around it."""
    found = 0
    for batch in islice(Batches(corpus, 30.0, CPU, seed=4), 10):
        for row, length, clips in zip(batch.samples, batch.lengths.tolist(), batch.clips, strict=True):
            assert row[length:].abs().sum() == 0
            if len(clips) == 1:
                start = int(corpus.offsets[clips[0]])
                clip = corpus.audio[start : start + int(corpus.lengths[clips[0]])].astype(np.float32) / 32768
                core = clip[2200:-2200]  # beyond what an edge may cut
                assert core.tobytes() in row[:length].numpy().tobytes()
                found += 1
    assert found > 10


def test_the_same_seed_gives_the_same_batches(corpus: Corpus) -> None:
    first, again, other = (
        [(batch.clips, batch.samples) for batch in islice(Batches(corpus, 30.0, CPU, seed), 12)]
        for seed in (1, 1, 2)
    )
    for (clips, samples), (same_clips, same_samples) in zip(first, again, strict=True):
        assert clips == same_clips
        assert torch.equal(samples, same_samples)
    assert [clips for clips, _ in first] != [clips for clips, _ in other]


def test_batches_have_few_shapes_and_as_much_speech_as_asked(corpus: Corpus) -> None:
    allowed = {(rows_of(width, 60.0), round(width * SAMPLE_RATE)) for width in WIDTHS_S}
    for batch in islice(Batches(corpus, 60.0, CPU, seed=0), 20):
        assert tuple(batch.samples.shape) in allowed
        assert int(batch.lengths.max()) <= batch.samples.shape[1]
        assert batch.samples.numel() <= 60 * SAMPLE_RATE


def test_an_item_wider_than_every_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="above"):
        width_for(30 * SAMPLE_RATE)
