"""Bucket labels: upper edges belong to their bucket, and labels sort by length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus.buckets import DEFAULT_EDGES_S, bucket_label, bucket_labels


@pytest.mark.parametrize(
    ("seconds", "label"),
    [
        (0.0, "00-01s"),
        (1.0, "00-01s"),
        (1.01, "01-02s"),
        (5.0, "02-05s"),
        (30.0, "20-30s"),
        (30.01, "30s+"),
        (None, "unknown"),
    ],
)
def test_labels(seconds: float | None, label: str) -> None:
    assert bucket_label(seconds, DEFAULT_EDGES_S) == label


def test_labels_of_long_and_fractional_edges() -> None:
    assert bucket_labels((60, 300, 3600)) == ["0000-0060s", "0060-0300s", "0300-3600s", "3600s+"]
    assert bucket_labels((0.5, 1, 1.5)) == ["00-00.5s", "00.5-01s", "01-01.5s", "01.5s+"]


edges = st.lists(st.integers(1, 40_000).map(lambda tenths: tenths / 10), min_size=1, max_size=8, unique=True)


@settings(deadline=None)
@given(edges.map(sorted), st.lists(st.floats(0, 5000), max_size=20))
def test_labels_sort_by_length(edges_s: list[float], lengths_s: list[float]) -> None:
    labels = [bucket_label(length, edges_s) for length in sorted(lengths_s)]
    assert labels == sorted(labels)
    assert set(labels) <= set(bucket_labels(edges_s))
    assert [*labels, "unknown"] == sorted([*labels, bucket_label(None, edges_s)])
