from __future__ import annotations

import numpy as np
import pytest

from harness.errors import InvalidMeasurementError
from harness.protocols import Hypothesis
from variants.encoder.parity import (
    LIMITS,
    Limits,
    States,
    compare,
    label_agreement,
    probe,
    require,
    require_labels,
)
from variants.encoder.probes import speech_probe

LENGTHS = np.array([5, 3])


def states(seed: int = 0) -> States:
    return States(np.random.default_rng(seed).standard_normal((2, 5, 8)).astype(np.float32), LENGTHS)


def test_the_same_is_the_same() -> None:
    found = compare(states(), states())
    assert found.lengths_equal
    assert found.cosine == pytest.approx(1.0)
    assert found.relative == 0.0


def test_what_lies_beyond_the_length_does_not_count() -> None:
    other = states()
    other.values[1, 3:] = np.nan
    assert compare(states(), other).relative == 0.0


@pytest.mark.parametrize("frame", [0, 2])
def test_one_wrong_frame_is_the_worst(frame: int) -> None:
    other = states()
    other.values[1, frame] *= -1
    assert compare(states(), other).cosine == pytest.approx(-1.0)


def test_other_lengths_fail() -> None:
    other = States(states().values, np.array([5, 4]))
    assert not compare(states(), other).within(LIMITS["bfloat16"])


def test_not_a_number_fails() -> None:
    other = states()
    other.values[0, 1, 2] = np.nan
    assert not compare(states(), other).within(Limits(-2.0, 1e9))


def test_too_few_frames_fail() -> None:
    short = States(states().values[:, :4], LENGTHS)
    assert not compare(states(), short).within(Limits(-2.0, 1e9))


def test_silence_agrees_with_silence() -> None:
    zeros = States(np.zeros((2, 5, 8), np.float32), LENGTHS)
    assert compare(zeros, zeros).within(LIMITS["float32"])


def test_a_failure_names_what_differs_and_by_how_much() -> None:
    with pytest.raises(InvalidMeasurementError, match=r"bucket 3.*cosine.*speed is withheld"):
        require(states(), states(1), LIMITS["float16"], "bucket 3")


def test_a_probe_exercises_the_masks() -> None:
    batch = probe(4, 10, 40, 16)
    assert batch.values.shape == (4, 16, 40)
    assert batch.lengths.tolist() == [40, 30, 20, 10]
    assert not batch.values[3, :, 10:].any()
    assert batch.values[3, :, :10].any()


@pytest.mark.parametrize(
    ("found", "agreement"),
    [((1, 2, 3, 4), 1.0), ((1, 2, 4), 0.75), ((1, 2, 9, 3, 4), 0.75), ((5, 6, 7, 8), 0.0), ((), 0.0)],
)
def test_labels_agree_but_for_edits(found: tuple[int, ...], agreement: float) -> None:
    assert label_agreement([Hypothesis((1, 2, 3, 4))], [Hypothesis(found)]) == agreement


def test_silence_decodes_alike() -> None:
    assert label_agreement([Hypothesis(())], [Hypothesis(())]) == 1.0


def test_too_many_edits_are_invalid() -> None:
    with pytest.raises(InvalidMeasurementError, match=r"bucket 2.*75\.0%"):
        require_labels([Hypothesis((1, 2, 3, 4))], [Hypothesis((1, 2, 4))], 0.8, "bucket 2")


def test_speech_is_probed_with_where_the_model_hears_speech() -> None:
    batch = speech_probe(3, 100, 3008, 128)
    assert batch.values.shape == (3, 128, 3008)
    assert batch.lengths.tolist() == [3008, 1554, 100]
    assert not batch.values[2, :, 100:].any()
    assert not np.array_equal(batch.values[0, :, :100], batch.values[1, :, :100])
    assert np.array_equal(speech_probe(1, 5, 50, 32).values, probe(1, 5, 50, 32).values)
