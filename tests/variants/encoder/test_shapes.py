from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.protocols import ShapePlan
from variants.encoder.planner import AffineCost, Profile, seconds_to_frames
from variants.encoder.shapes import ShapeGrid, Slot, batch_sizes, make_grid, output_frames

GRID = ShapeGrid((Profile(1, 100, 100), Profile(101, 300, 300)), (1, 2, 4))


def grid(plan: ShapePlan, k: int = 3, longest_s: float = 30.0) -> ShapeGrid:
    return make_grid(plan, k=k, longest_s=longest_s, hop_s=0.01, cost=AffineCost())


@given(st.integers(1, 4), st.integers(1, 300))
def test_a_batch_takes_the_smallest_shape_that_holds_it(rows: int, frames: int) -> None:
    slot = GRID.slot(rows, frames)
    assert slot is not None
    assert slot.batch >= rows
    assert slot.frames >= frames
    smaller = [s for s in GRID.slots() if s.batch >= rows and s.frames >= frames]
    assert slot.batch * slot.frames == min(s.batch * s.frames for s in smaller)


@pytest.mark.parametrize(("rows", "frames"), [(5, 10), (1, 301)])
def test_what_fits_nowhere_has_no_shape(rows: int, frames: int) -> None:
    assert GRID.slot(rows, frames) is None


@given(st.integers(1, 40))
def test_pieces_are_all_rows_in_order_none_wider_than_the_largest_shape(rows: int) -> None:
    pieces = list(GRID.pieces(rows))
    assert [i for piece in pieces for i in range(rows)[piece]] == list(range(rows))
    assert all(piece.stop - piece.start <= 4 for piece in pieces)


def test_the_largest_shape_is_built_first() -> None:
    assert GRID.slots()[0] == Slot(4, 1, 300)
    assert len(GRID.slots()) == 6


@pytest.mark.parametrize(("largest", "sizes"), [(1, (1,)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))])
def test_batch_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(largest) == sizes


def test_the_warm_up_of_every_reached_bucket_edge_fits() -> None:
    plan = ShapePlan((1.0, 2.0, 5.0, 10.0, 30.0), 4, (0.7, 1.1, 3.0, 3.2))
    made = grid(plan)
    assert made.profiles[0].min == 1
    assert made.longest >= seconds_to_frames(5.0, 0.01)
    assert made.longest < seconds_to_frames(10.0, 0.01)


def test_a_run_that_knows_no_lengths_gets_its_buckets() -> None:
    made = grid(ShapePlan((1.0, 2.0, 5.0), 1), k=2)
    assert [profile.max for profile in made.profiles] == [104, 208, 504]


def test_recordings_longer_than_a_segment_do_not_stretch_the_shapes() -> None:
    made = grid(ShapePlan((1.0, 30.0), 1, (3000.0, 12.0)))
    assert made.longest == 3008


@given(st.integers(1, 4000))
def test_output_frames_are_those_of_the_convolutions(frames: int) -> None:
    conv = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
    length = frames
    for _ in range(3):
        length = (length + 2 * conv.padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1
    assert output_frames(frames, 8) == length
