"""Synthetic weights: deterministic, and busy like speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.corpus.speech import VOICES, speak
from harness.errors import UsageError
from harness.protocols import Hypothesis, Segment
from harness.spans import SpanRecorder
from tests.harness.audio.recordings import resample
from tests.variants.eager_parts import eager_parts
from tests.variants.models.calibration_clips import render
from variants.models import parakeet_tdt_0_6b_v3, parakeet_tiny, synthetic
from variants.models.options import ModelOptions
from variants.models.parakeet import PARAKEET_TINY
from variants.models.synthetic import CALIBRATION_STEP, build_synthetic, calibration_features
from variants.models.types import TdtModel

RATE = 16_000
TEXTS = (
    "turn off the lights in the kitchen and set an alarm for half past six in the morning please",
    "my flight was cancelled and i need another connection to denver before the weekend begins",
    "what is the weather like in seattle and do i need an umbrella when i go out tonight",
)


@pytest.fixture(scope="module")
def tiny() -> TdtModel:
    return parakeet_tiny.build(ModelOptions(name="parakeet_tiny", device="cpu"))


def spoken(voices: Sequence[str]) -> list[Segment]:
    """Every text in every voice, none of them among the clips of the calibration."""
    clips = [
        resample(speak(text, VOICES[voice]), sample_rate=RATE, quality="HQ").samples
        for voice in voices
        for text in TEXTS
    ]
    return [Segment(clip, RATE, 0.0) for clip in clips]


def decode(model: TdtModel, segments: Sequence[Segment]) -> tuple[Hypothesis, ...]:
    (transcript,) = eager_parts(model).transcribe([segments], SpanRecorder())
    return transcript.hypotheses


def labels_per_s(hypotheses: Sequence[Hypothesis], segments: Sequence[Segment]) -> float:
    seconds = sum(len(segment.samples) for segment in segments) / RATE
    return sum(len(hypothesis.tokens) for hypothesis in hypotheses) / seconds


def test_real_speech_yields_the_stated_rate_and_realistic_output(tiny: TdtModel) -> None:
    segments = spoken(["us_male_2", "us_female_3", "gb_male", "lancaster_male", "midlands_female"])
    hypotheses = decode(tiny, segments)
    assert labels_per_s(hypotheses, segments) == pytest.approx(4.0, rel=0.15)
    tokens = Counter(token for hypothesis in hypotheses for token in hypothesis.tokens)
    assert len(tokens) > 50
    assert tokens.most_common(1)[0][1] < 0.2 * tokens.total()
    skips = np.array([skip for hypothesis in hypotheses for skip in hypothesis.durations])
    assert 1.5 < skips.mean() < 3.0
    assert len({hypothesis.tokens for hypothesis in hypotheses}) == len(hypotheses)


def test_labels_are_spread_over_the_clip(tiny: TdtModel) -> None:
    segment = spoken(["us_male_2"])[0]
    frames = np.array(decode(tiny, [segment])[0].frames)
    quarters = np.histogram(frames, bins=4, range=(0, len(segment.samples) / 1280))[0]
    assert (quarters > 0).all()


def test_the_same_seed_gives_the_same_weights_whatever_the_threads(tiny: TdtModel) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        again = parakeet_tiny.build(ModelOptions(name="parakeet_tiny", device="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert again.provenance == tiny.provenance
    for name in ("encoder", "prednet", "joint"):
        ours, theirs = getattr(tiny, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_another_seed_or_rate_is_another_model(tiny: TdtModel) -> None:
    _, other_seed = build_synthetic(PARAKEET_TINY, seed=2, tokens_per_speech_s=4.0)
    _, other_rate = build_synthetic(PARAKEET_TINY, seed=0, tokens_per_speech_s=2.0)
    hashes = {each["weights_hash"] for each in (tiny.provenance, other_seed, other_rate)}
    assert len(hashes) == 3
    assert other_rate["achieved_tokens_per_speech_s"] == pytest.approx(2.0, rel=0.1)


def test_provenance_says_what_was_asked_and_what_came(tiny: TdtModel) -> None:
    assert tiny.provenance["weights"] == "synthetic"
    assert tiny.provenance["seed"] == 0
    assert tiny.provenance["tokens_per_speech_s"] == 4.0
    assert tiny.provenance["achieved_tokens_per_speech_s"] == pytest.approx(4.0, rel=0.1)


def test_a_rate_beyond_reach_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.tokens_per_speech_s=500"):
        build_synthetic(PARAKEET_TINY, seed=0, tokens_per_speech_s=500.0)


def test_the_calibration_clips_are_what_the_front_end_makes_of_speech() -> None:
    """``calibration.npz`` has no other origin than the module that states it."""
    np.testing.assert_allclose(calibration_features(), render(), atol=CALIBRATION_STEP)


@pytest.mark.slow
def test_the_large_model_transcribes_a_few_utterances() -> None:
    model = parakeet_tdt_0_6b_v3.build(ModelOptions(name="parakeet_tdt_0_6b_v3", device="cpu"))
    segments = spoken(["us_male_2", "gb_male"])[:5]
    hypotheses = decode(model, segments)
    assert labels_per_s(hypotheses, segments) == pytest.approx(4.0, rel=0.25)
    assert max(max(hypothesis.tokens) for hypothesis in hypotheses) < 8192


def test_a_calibration_that_took_long_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "_WORTH_KEEPING_S", 0.0)
    fresh, first = build_synthetic(PARAKEET_TINY, seed=3, tokens_per_speech_s=4.0)
    kept = next(tmp_path.rglob("joint.pt"))

    monkeypatch.setattr(synthetic, "Calibration", None)  # calling it again would fail
    again, second = build_synthetic(PARAKEET_TINY, seed=3, tokens_per_speech_s=4.0)
    assert second == first
    for a, b in zip(fresh, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    kept.write_bytes(b"half a file")
    _, third = build_synthetic(PARAKEET_TINY, seed=3, tokens_per_speech_s=4.0)
    assert third == first
