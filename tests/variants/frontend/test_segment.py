"""Segmentation: which stretches are transcribed, and what holds for every one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.protocols import Audio, Segment, SpeechMap
from tests.harness.audio.recordings import RATE, noise
from variants.frontend.config import SegmentConfig
from variants.frontend.segment import segment
from variants.frontend.vad import all_speech

WINDOW_S = 0.03
WINDOW = round(WINDOW_S * RATE)
PLAIN = SegmentConfig(threshold=0.5, hysteresis=0.0, min_silence_s=0.3, min_speech_s=0.2, padding_s=0.0)


def speech_map(probabilities: list[float] | np.ndarray, cut: int = 0) -> SpeechMap:
    """Probabilities over samples that count up, so that a segment shows where it came from."""
    values = np.asarray(probabilities, np.float32)
    samples = np.arange(max(len(values) * WINDOW - cut, 0), dtype=np.float32) / 1e6
    return SpeechMap(Audio(samples, RATE), values, WINDOW_S)


def spoken(total_s: float, *stretches: tuple[float, float]) -> SpeechMap:
    times = (np.arange(round(total_s / WINDOW_S)) + 0.5) * WINDOW_S
    inside = np.zeros(len(times), bool)
    for start_s, end_s in stretches:
        inside |= (times > start_s) & (times < end_s)
    return speech_map(inside)


def bounds(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(round(s.start_s, 2), round(s.start_s + len(s.samples) / s.sample_rate, 2)) for s in segments]


def test_silence_and_nothing_give_nothing() -> None:
    assert segment(spoken(3.0), PLAIN) == []
    assert segment(speech_map([]), PLAIN) == []


def test_two_utterances_are_two_segments() -> None:
    assert bounds(segment(spoken(6.0, (0.9, 1.8), (3.0, 4.5)), PLAIN)) == [(0.9, 1.8), (3.0, 4.5)]


def test_a_short_pause_does_not_end_a_segment() -> None:
    assert bounds(segment(spoken(6.0, (0.9, 1.8), (2.04, 3.0)), PLAIN)) == [(0.9, 3.0)]


def test_short_speech_is_dropped() -> None:
    assert bounds(segment(spoken(6.0, (0.9, 1.02), (3.0, 4.5)), PLAIN)) == [(3.0, 4.5)]


def test_padding_widens_up_to_the_middle_of_a_gap_and_the_ends_of_the_clip() -> None:
    config = replace(PLAIN, padding_s=0.6)
    assert bounds(segment(spoken(4.5, (0.3, 1.2), (1.8, 4.2)), config)) == [(0.0, 1.5), (1.5, 4.5)]


def test_hysteresis_keeps_what_wavers_once_speech_has_begun() -> None:
    wavering = [0.4] * 10 + [0.8] * 10 + [0.4] * 30 + [0.1] * 20
    config = replace(PLAIN, hysteresis=0.2)
    assert bounds(segment(speech_map(wavering), config)) == [(0.3, 1.5)]
    assert bounds(segment(speech_map(wavering), PLAIN)) == [(0.3, 0.6)]


def test_long_speech_is_cut_where_it_is_least_certain() -> None:
    probabilities = np.ones(400)
    probabilities[290:300] = 0.6  # at 8.7 to 9.0 s
    cuts = bounds(segment(speech_map(probabilities), replace(PLAIN, max_segment_s=10.0)))
    assert len(cuts) == 2
    assert 8.7 <= cuts[0][1] <= 9.0


def test_speech_that_is_certain_throughout_is_cut_where_it_is_quietest() -> None:
    samples = noise(12.0)
    samples[round(8.0 * RATE) : round(8.3 * RATE)] *= 0.01
    cuts = bounds(segment(all_speech(Audio(samples, RATE)), replace(PLAIN, max_segment_s=10.0)))
    assert len(cuts) == 2
    assert 8.0 <= cuts[0][1] <= 8.3


def test_no_piece_of_a_cut_is_a_splinter() -> None:
    pieces = segment(all_speech(Audio(noise(10.03), RATE)), replace(PLAIN, max_segment_s=10.0))
    assert min(len(piece.samples) for piece in pieces) >= PLAIN.min_speech_s * RATE


def test_segments_are_views_of_the_clip() -> None:
    source = spoken(6.0, (0.9, 1.8), (3.0, 4.5))
    for piece in segment(source, PLAIN):
        assert np.shares_memory(piece.samples, source.audio.samples)


configs = st.builds(
    SegmentConfig,
    threshold=st.just(0.5),
    hysteresis=st.floats(0, 0.4),
    min_silence_s=st.floats(0, 1),
    min_speech_s=st.floats(0, 1),
    padding_s=st.floats(0, 1),
    max_segment_s=st.floats(0.5, 5),
    split_search_s=st.floats(0, 5),
)
levels = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.45, 0.5, 0.9, 1.0]), st.integers(1, 80)), max_size=12
).map(lambda runs: [level for level, count in runs for _ in range(count)])


@settings(max_examples=300, deadline=None)
@given(levels, st.integers(0, WINDOW - 1), configs)
def test_what_holds_for_every_clip(probabilities: list[float], cut: int, config: SegmentConfig) -> None:
    source = speech_map(probabilities, cut if probabilities else 0)
    total = len(source.audio.samples)
    covered = np.zeros(total, bool)
    previous_end = 0
    for piece in segment(source, config):
        start = round(piece.start_s * RATE)
        end = start + len(piece.samples)
        assert previous_end <= start < end <= total, "ordered, disjoint, inside the clip"
        assert end - start <= round(config.max_segment_s * RATE), "within the limit"
        np.testing.assert_array_equal(piece.samples, source.audio.samples[start:end])
        covered[start:end] = True
        previous_end = end
    for start, end in runs(source.probabilities >= config.threshold):
        first, last = start * WINDOW, min(end * WINDOW, total)
        if last - first >= max(round(config.min_speech_s * RATE), 1):
            assert covered[first:last].all(), "speech that is long enough is covered"


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


@pytest.mark.parametrize("limit_s", [0.5, 1.0, 29.9, 30.0])
def test_without_a_detector_the_whole_clip_is_kept(limit_s: float) -> None:
    samples = noise(30.0)
    pieces = segment(all_speech(Audio(samples, RATE)), replace(PLAIN, max_segment_s=limit_s))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
