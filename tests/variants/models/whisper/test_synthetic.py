"""Synthetic Whispers: the same on every machine, and about as long-winded as speech."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.errors import UsageError
from harness.protocols import Segment
from tests.harness.audio.recordings import RATE
from tests.variants.models.whisper.parts import SMALL, model
from tests.variants.models.whisper.test_features import sound
from variants.decoder.attention.cpu_synced import CpuSyncedDecoder
from variants.encoder.attention.eager import EagerEncoder
from variants.models.whisper.synthetic import build_synthetic

pytest.importorskip("whisper", reason="needs the extra whisper")

MULTILINGUAL = dataclasses.replace(SMALL, n_vocab=51_866, n_mels=128)


@pytest.mark.parametrize("size", [SMALL, MULTILINGUAL], ids=["en", "multilingual"])
@pytest.mark.parametrize("timestamps", [True, False])
def test_a_window_has_about_a_hundred_tokens_and_ends(size, timestamps):
    whisper = model(size=size, timestamps=timestamps)
    segments = [Segment(sound(30.0), RATE, 0.0), Segment(0.2 * sound(7.0)[::-1].copy(), RATE, 0.0)]
    encoded = EagerEncoder(whisper).encode(whisper.features(segments))
    found = CpuSyncedDecoder(whisper, 2).search(encoded)
    assert all(85 <= len(each.tokens) <= 115 for each in found)
    assert found[0].tokens != found[1].tokens  # what is heard decides
    assert len(set(found[0].tokens)) > 50


def test_weights_follow_from_the_seed_alone():
    first, again, other = (build_synthetic(SMALL, seed, 100 / 30) for seed in (0, 0, 1))
    for name, value in first.modules.state_dict().items():
        assert torch.equal(value, again.modules.state_dict()[name]), name
        assert bool(torch.isfinite(value).all()), name
    assert first.provenance == again.provenance
    assert first.provenance["weights_hash"] != other.provenance["weights_hash"]
    ours, theirs = (each.modules.encoder.conv1.weight for each in (first, other))
    assert not np.allclose(ours.detach(), theirs.detach())


@pytest.mark.parametrize("rate", [0.5, 8.0])
def test_a_rate_that_no_window_holds_is_refused(rate):
    with pytest.raises(UsageError, match="a window of 30 s would have"):
        build_synthetic(SMALL, 0, rate)
