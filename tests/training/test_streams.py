"""Word error rates of live streams: the whole, windows and what is kept, over the same sentences."""

from __future__ import annotations

import pytest

from training import streams
from training.evaluate import load_exported


def test_each_way_is_heard_over_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CONTEXTS", ((2.4, 0.64, 0.64),))
    found = list(streams.streams(load_exported(), 3))
    assert [each.way.split(",")[0] for each in found] == ["the whole at once", "window", "cached"]
    assert len({each.errors.words for each in found}) == 1 and found[0].errors.words > 5
    assert all(each.errors.total < each.errors.words / 2 for each in found)
    assert "| cached, 2.4 + 0.64 + 0.64 s |" in streams.table(found)
