from __future__ import annotations

import pandas as pd
import pytest

from harness.measure.steadiness import first_meeting_ratio, first_meeting_warning


def served(first_s: float, later_s: float, recordings: int = 10, repeats: int = 3) -> pd.DataFrame:
    """Every recording ``repeats`` times, the first time in ``first_s``."""
    times = [
        {"process": 0, "request_id": f"r{number}", "service_s": later_s if turn else first_s}
        for turn in range(repeats)
        for number in range(recordings)
    ]
    return pd.DataFrame(times)


def test_a_recording_that_is_slow_at_first_is_told() -> None:
    rows = served(first_s=0.5, later_s=0.05)
    assert first_meeting_ratio(rows) == pytest.approx(10.0)
    warning = first_meeting_warning(rows)
    assert warning is not None
    assert "10.0 times" in warning
    assert "runner.warmup.every_recording=true" in warning


def test_equal_times_are_steady() -> None:
    assert first_meeting_warning(served(first_s=0.05, later_s=0.05)) is None


def test_one_disturbed_recording_is_not_a_pattern() -> None:
    rows = served(first_s=0.05, later_s=0.05)
    rows.loc[0, "service_s"] = 5.0
    assert first_meeting_warning(rows) is None


def test_processes_have_met_nothing_together() -> None:
    a, b = served(0.5, 0.05), served(0.5, 0.05)
    assert first_meeting_ratio(pd.concat([a, b.assign(process=1)])) == pytest.approx(10.0)


def test_without_repeats_nothing_is_known() -> None:
    assert first_meeting_ratio(served(0.5, 0.05, repeats=1)) is None
