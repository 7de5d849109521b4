"""Word errors, and whether two runs say the same."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.stats import Estimate, TooSmall
from harness.measure.wer import WordErrors, compare_outputs, corpus_wer, count_errors, normalize
from harness.record import ParityStatus, Tolerance, samples_frame
from tests.harness.runs import Recipe, samples

words = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), max_size=12).map(" ".join)


def rows(say=str, requests=60, transcripts=True) -> pd.DataFrame:
    frame = samples_frame(samples(Recipe(say=say, requests=requests, transcripts=transcripts), 0))
    return frame[frame["phase"] == "measured"]


def without_last_word(text: str) -> str:
    return text.rsplit(" ", 1)[0]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hello, World!", "hello world"),
        ("it\u2019s  twenty-nine dollars.", "it's twenty nine dollars"),
        ("'quoted' don't", "quoted don't"),
        ("ﬁne \uff21", "fine a"),
        ("snake_case", "snake case"),
        ("don\u02bct don\u00b4t don\u2018t \u2018so\u2019", "don't don't don't so"),
        ("soft\u00adly می\u200cخواهم", "softly میخواهم"),
        ("\u2764\ufe0f fine \u00a8", "fine"),
        ("ΟΔΟΣ Ϊ́δια", "οδοσ ΐδια"),
        ("İSTANBUL", "istanbul"),
        ("किताब's", "किताब's"),
        ("", ""),
    ],
)
def test_case_punctuation_and_forms_are_no_errors(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [
        ("a b c", "a b c", WordErrors(0, 0, 0, 3)),
        ("a b c", "a c", WordErrors(0, 1, 0, 3)),
        ("a b c", "a x b c", WordErrors(1, 0, 0, 3)),
        ("a b c", "a x c", WordErrors(0, 0, 1, 3)),
        ("a b c", "", WordErrors(0, 3, 0, 3)),
        ("", "a b", WordErrors(2, 0, 0, 0)),
    ],
)
def test_edits_by_kind(reference, hypothesis, errors):
    assert count_errors(reference, hypothesis) == errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits", "count"),
    [
        ("की", "का", 1, 1),
        ("मेरी किताब", "मेरा कताब", 2, 2),
        ("किताब मेज पर है", "कताब मेज पर है", 1, 4),
        ("ที่นี่ ดี", "ที่นี่ ดี", 0, 2),
        ("שָׁלוֹם עולם", "שָׁלוֹם עולם", 0, 2),
        ("ΐδια ώρα", "ΪΔΙΑ\u0301 ΏΡΑ", 1, 2),
        ("İstanbul güzel", "istanbul GÜZEL", 0, 2),
        ("cafe\u0301", "CAFÉ", 0, 1),
    ],
)
def test_a_mark_belongs_to_its_word_in_every_script(reference, hypothesis, edits, count):
    errors = count_errors(reference, hypothesis)
    assert (errors.total, errors.words) == (edits, count)


@given(st.text())
def test_what_is_normal_stays_as_it_is(text):
    assert normalize(normalize(text)) == normalize(text)


@given(words, words)
def test_edits_are_symmetric_and_bounded(reference, hypothesis):
    there, back = count_errors(reference, hypothesis), count_errors(hypothesis, reference)
    assert there.total == back.total
    assert there.total <= max(len(reference.split()), len(hypothesis.split()))
    assert there.words + there.insertions - there.deletions == back.words


def test_the_rate_is_over_all_words_with_an_interval_over_recordings():
    result = corpus_wer(rows(without_last_word))
    assert result is not None
    assert isinstance(result.rate, Estimate)
    assert result.errors.deletions == result.errors.total > 0
    assert result.point == pytest.approx(result.errors.total / result.errors.words)
    assert result.rate.low < result.rate.value < result.rate.high


def test_repetitions_of_a_recording_are_one_recording():
    frame = rows(without_last_word, requests=4)
    repeated = corpus_wer(pd.concat([frame] * 50))
    once = corpus_wer(frame)
    assert repeated is not None
    assert once is not None
    assert repeated.utterances == once.utterances
    assert isinstance(repeated.rate, TooSmall)
    assert repeated.point == once.point


def test_without_transcripts_there_is_no_rate():
    assert corpus_wer(rows(transcripts=False)) is None


def test_the_same_tokens_are_the_same_output():
    parity = compare_outputs(rows(), rows(), Tolerance(), "eager")
    assert (parity.status, parity.differing) == (ParityStatus.SAME, 0)


def test_a_decoder_that_drops_the_last_word_is_caught():
    for tolerance in (Tolerance(), Tolerance("wer", 0.01)):
        parity = compare_outputs(rows(), rows(without_last_word), tolerance, "eager")
        assert parity.status is ParityStatus.DIFFERENT
        assert parity.differing == parity.compared > 0


def test_one_token_in_one_recording_is_caught_by_exact():
    frame = rows()
    changed = samples(Recipe(requests=60), 0)
    last = changed[-1]
    changed[-1] = replace(last, token_ids=(*last.token_ids[:-1], last.token_ids[-1] + 1))
    parity = compare_outputs(frame, samples_frame(changed), Tolerance(), "eager")
    assert parity.status is ParityStatus.DIFFERENT
    assert parity.differing == 1
    assert last.request_id in parity.message


def test_a_difference_within_the_declared_rate_passes_with_its_interval():
    parity = compare_outputs(rows(), rows(without_last_word), Tolerance("wer", 0.5), "eager")
    assert parity.status is ParityStatus.SAME
    assert parity.wer_difference is not None
    assert parity.wer_difference_high is not None
    assert 0 < parity.wer_difference <= parity.wer_difference_high <= 0.5


def test_an_interval_across_the_limit_decides_nothing():
    exact = compare_outputs(rows(), rows(without_last_word), Tolerance("wer", 0.5), "eager").wer_difference
    assert exact is not None
    parity = compare_outputs(rows(), rows(without_last_word), Tolerance("wer", exact), "eager")
    assert parity.status is ParityStatus.UNDECIDED
    assert "more recordings" in parity.message


def test_without_transcripts_the_references_own_text_is_the_yardstick():
    base, worse = rows(transcripts=False), rows(without_last_word, transcripts=False)
    parity = compare_outputs(base, worse, Tolerance("wer", 0.01), "eager")
    assert parity.status is ParityStatus.DIFFERENT
    assert compare_outputs(base, base, Tolerance("wer", 0.0), "eager").status is ParityStatus.SAME


def test_a_recording_without_an_answer_is_a_difference():
    frame = rows()
    answered = frame[frame["request_id"] != frame["request_id"].iloc[0]]
    parity = compare_outputs(frame, answered, Tolerance("wer", 1.0), "eager")
    assert parity.status is ParityStatus.DIFFERENT
    assert "got no answer" in parity.message


def test_nothing_in_common_decides_nothing():
    assert compare_outputs(rows(), rows().iloc[:0], Tolerance(), "eager").status is ParityStatus.UNDECIDED
