"""Where ``variants/models/calibration.npz`` comes from.

``python -m tests.variants.models.calibration_clips`` writes it: eight voices of espeak-ng through the
front end. Kept as a file because models must not depend on a
speech synthesizer, nor their weights on its version.
"""

from __future__ import annotations

import numpy as np

from harness.corpus.speech import VOICES, speak
from harness.protocols import Segment
from tests.harness.audio.recordings import resample
from variants.models.features import FeatureConfig, LogMel
from variants.models.synthetic import CALIBRATION_FILE, CALIBRATION_STEP

RATE = 16_000
SPEECH_S, CLIP_S = 4.0, 2.4
SPOKEN = (
    ("us_male_1", 0.0, "good morning this is the front desk how may i help you with your reservation today"),
    ("gb_female", 1e-3, "the package left our warehouse on thursday and should arrive before the end of may"),
    ("us_female_2", 1e-3, "we measured the temperature of the river and wrote all of it into a large book"),
    (
        "scotland_male",
        1e-2,
        "my brother plays the violin in an orchestra which tours the islands every summer",
    ),
    ("us_male_3", 1e-2, "please send the invoice to our office and leave a copy with the woman at the door"),
    ("rp_female", 0.0, "yesterday nobody noticed that the museum had been closed for more than twenty years"),
    ("caribbean_male", 1e-3, "i hear you quite well now but earlier there was so much noise on the line"),
    (
        "us_female_1",
        0.0,
        "would you rather change the address or cancel the order and receive your money back",
    ),
)
"""Voice, deviation of the noise, text. The texts are spoken twice in a row, so that each lasts
``SPEECH_S``, which the front end normalizes; the middle ``CLIP_S`` of it are kept."""


def render() -> np.ndarray:
    """Log-mel features ``[clips, F, T]``, normalized."""
    rng = np.random.default_rng(0)
    segments = []
    for voice, noise, text in SPOKEN:
        samples = resample(speak(f"{text} {text}", VOICES[voice]), sample_rate=RATE, quality="HQ").samples
        noisy = samples + np.float32(noise) * rng.standard_normal(len(samples), dtype=np.float32)
        segments.append(Segment(noisy[: round(SPEECH_S * RATE)], RATE, 0.0))
    frames, first = round(CLIP_S * 100), round((SPEECH_S - CLIP_S) * 50)
    return LogMel(FeatureConfig(), RATE)(segments).values[:, :, first : first + frames]


def main() -> None:
    levels = np.clip(np.round(render() / CALIBRATION_STEP), -127, 127).astype(np.int8)
    np.savez_compressed(CALIBRATION_FILE, levels=levels)


if __name__ == "__main__":
    main()
