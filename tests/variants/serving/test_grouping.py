"""Groups in which rows are encoded: the cheapest there are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.protocols import EncoderOutput
from variants.serving.grouping import groups, joined


def cost(lengths: list[int], cuts: tuple[int, ...], call: int) -> int:
    bounds = [0, *cuts, len(lengths)]
    return sum(call + (end - start) * lengths[end - 1] for start, end in pairwise(bounds))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=7).map(sorted), st.integers(0, 300))
def test_no_other_groups_cost_less(lengths: list[int], call: int) -> None:
    found = groups(lengths, call)
    assert [row for group in found for row in range(len(lengths))[group]] == list(range(len(lengths)))
    every = range(1, len(lengths))
    least = min(cost(lengths, cuts, call) for n in range(len(lengths)) for cuts in combinations(every, n))
    assert cost(lengths, tuple(group.start for group in found[1:]), call) == least


@pytest.mark.parametrize(
    ("lengths", "sizes"), [([100, 110, 120], [3]), ([100, 110, 900, 950], [2, 2]), ([], [])]
)
def test_what_is_alike_is_encoded_at_once(lengths: list[int], sizes: list[int]) -> None:
    assert [group.stop - group.start for group in groups(lengths, 180)] == sizes


def test_joined_states_are_those_of_each() -> None:
    short = EncoderOutput(torch.full((2, 3, 4), 1.0), torch.tensor([2, 3]))
    long = EncoderOutput(torch.full((1, 5, 4), 2.0), torch.tensor([5]))
    both = joined([short, long])
    assert both.values.shape == (3, 5, 4) and both.lengths.tolist() == [2, 3, 5]
    assert torch.equal(both.values[:2, :3], short.values) and torch.equal(both.values[2:], long.values)
    assert not both.values[:2, 3:].any()
    assert joined([short]) is short
