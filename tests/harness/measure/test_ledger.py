"""The ledger balances: every nanosecond of a request is in a span once, or unaccounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.ledger import balance, ledger_reason
from harness.record import samples_frame
from harness.spans import SPAN_NAMES, Span
from tests.harness.runs import Recipe, samples

spans = st.builds(
    lambda name, start, length: Span(name, start, start + length),
    st.sampled_from(SPAN_NAMES),
    st.integers(0, 1000),
    st.integers(0, 300),
)


def test_gaps_are_unaccounted():
    result = balance([Span("decode", 10, 30), Span("encoder", 40, 90)], 0, 100)
    assert result.wall_s == pytest.approx(100e-9)
    assert result.seconds == {"decode": pytest.approx(20e-9), "encoder": pytest.approx(50e-9)}
    assert result.unaccounted_s == pytest.approx(30e-9)


def test_overlapping_spans_of_two_processes_cover_time_once():
    result = balance([Span("encoder", 0, 60), Span("ipc", 40, 100)], 0, 100)
    assert result.unaccounted_s == 0
    assert sum(result.seconds.values()) == pytest.approx(120e-9)


def test_a_name_may_repeat():
    result = balance([Span("encoder", 0, 20), Span("encoder", 50, 60)], 0, 100)
    assert result.seconds["encoder"] == pytest.approx(30e-9)


def test_time_outside_of_the_request_is_not_the_requests():
    assert balance([Span("queue", -50, 20), Span("reply", 90, 500)], 0, 100).seconds == {
        "queue": pytest.approx(20e-9),
        "reply": pytest.approx(10e-9),
    }


@given(st.lists(spans, max_size=12))
def test_what_is_covered_and_what_is_not_make_up_the_wall_time(found):
    start, end = 100, 900
    covered = {t for s in found for t in range(max(s.start_ns, start), min(s.end_ns, end))}
    result = balance(found, start, end)
    assert result.unaccounted_s == pytest.approx((end - start - len(covered)) * 1e-9, abs=1e-15)
    assert result.wall_s == pytest.approx((end - start) * 1e-9)


def test_a_request_cannot_end_before_it_starts():
    with pytest.raises(ValueError, match="ends"):
        balance([], 10, 5)


@pytest.mark.parametrize(("share", "valid"), [(0.0, True), (0.029, True), (0.035, False), (0.3, False)])
def test_more_than_three_percent_of_the_median_in_no_span_is_invalid(share, valid):
    rows = samples_frame(samples(Recipe(unaccounted_share=share, requests=60), 0))
    reason = ledger_reason(rows)
    assert (reason is None) is valid
    if reason is not None:
        assert "is in no span (limit 3%)" in reason.message


def test_a_run_without_successes_has_no_ledger():
    reason = ledger_reason(samples_frame([]))
    assert reason is not None
    assert "no request succeeded" in reason.message
