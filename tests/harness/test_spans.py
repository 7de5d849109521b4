"""The span recorder: one interval that two stages shared is divided between them."""

from __future__ import annotations

import pytest

from harness.spans import Span, SpanRecorder


def test_a_span_in_which_two_stages_took_turns_is_divided() -> None:
    recorder = SpanRecorder()
    recorder.add("decode", 100, 1100)
    recorder.divide_last("resample", 300)
    assert recorder.spans == [Span("decode", 100, 800), Span("resample", 800, 1100)]
    recorder.divide_last("queue", 9999)  # a clock's rounding may exceed what there is
    assert recorder.spans[1:] == [Span("resample", 800, 800), Span("queue", 800, 1100)]
    with pytest.raises(ValueError, match="unknown span"):
        recorder.divide_last("resampling", 1)
