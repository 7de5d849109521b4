"""Training hears what the front end hears, and what is done to the sound stays within its bounds."""

from __future__ import annotations

import numpy as np
import torch

from harness.protocols import Segment
from training.augment import Augmentation, augment, mask_features
from training.data import SAMPLE_RATE, Corpus
from variants.models.device_features import BatchLogMel
from variants.models.features import FeatureConfig, LogMel


def clips(corpus: Corpus, count: int) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
    """The first clips as a padded batch, their lengths, and each alone."""
    alone = [
        corpus.audio[start : start + length].astype(np.float32) / 32768
        for start, length in zip(corpus.offsets[:count], corpus.lengths[:count], strict=True)
    ]
    batch = torch.zeros(count, max(map(len, alone)))
    for row, samples in enumerate(alone):
        batch[row, : len(samples)] = torch.from_numpy(samples)
    return batch, torch.tensor([len(samples) for samples in alone]), alone


def test_features_are_those_of_the_front_end(corpus: Corpus) -> None:
    batch, lengths, alone = clips(corpus, 6)
    config = FeatureConfig()
    found, frames = BatchLogMel(config, SAMPLE_RATE)(batch, lengths)
    expected = LogMel(config, SAMPLE_RATE)([Segment(samples, SAMPLE_RATE, 0.0) for samples in alone])
    for row, (values, length) in enumerate(zip(expected.values, expected.lengths, strict=True)):
        assert int(frames[row]) == length
        np.testing.assert_allclose(found[row, :, :length].numpy(), values[:, :length], atol=1e-3)
        assert found[row, :, frames[row] :].abs().sum() == 0


def test_augmentation_keeps_lengths_and_peaks_and_comes_from_its_generator(corpus: Corpus) -> None:
    batch, lengths, _ = clips(corpus, 16)
    first, again, other = (
        augment(batch, lengths, Augmentation(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1.0 + 1e-4
    for row, length in zip(first, lengths.tolist(), strict=True):
        assert row[length:].abs().sum() == 0


def test_noise_has_the_level_that_was_asked_for(corpus: Corpus) -> None:
    batch, lengths, _ = clips(corpus, 8)
    only_noise = Augmentation(
        noise_share=1.0,
        snr_db=(10.0, 10.0),
        reverberation_share=0.0,
        filter_share=0.0,
        lowpass_share=0.0,
        gain_db=(0.0, 0.0),
    )
    noisy = augment(batch * 0.3, lengths, only_noise, torch.Generator().manual_seed(0))
    for row, clean, length in zip(noisy, batch * 0.3, lengths.tolist(), strict=True):
        noise_rms = (row - clean)[:length].square().mean().sqrt()
        loud = clean[:length].unfold(0, 320, 320).square().mean(1)
        speech_rms = loud[loud >= loud.max() * 1e-3].mean().sqrt()
        assert abs(20 * torch.log10(speech_rms / noise_rms).item() - 10.0) < 1.0


def test_digital_silence_survives_augmentation() -> None:
    silent = augment(
        torch.zeros(4, 16_000), torch.full((4,), 16_000), Augmentation(), torch.Generator().manual_seed(0)
    )
    assert torch.isfinite(silent).all()


def test_masks_remove_bands_and_stretches_and_leave_most() -> None:
    features, frames = torch.ones(32, 128, 200), torch.full((32,), 200)
    masked = mask_features(features, frames, torch.Generator().manual_seed(0))
    assert set(masked.flatten().tolist()) == {0.0, 1.0}
    assert 0.7 < masked.mean() < 0.99
    assert ((masked == 1).all(dim=2) | (masked == 0).any(dim=2)).all()
