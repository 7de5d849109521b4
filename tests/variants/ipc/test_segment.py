"""The writer's book of slots, under any order of taking and giving back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from variants.ipc.segment import Geometry, Run, Segment, SlotTable
from variants.ipc.types import PayloadTooLargeError

SLOTS, SLOT_BYTES = 16, 4096


def table() -> tuple[Segment, SlotTable]:
    segment = Segment.create(Geometry(SLOTS * SLOT_BYTES, SLOT_BYTES))
    return segment, SlotTable(segment)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 6), st.floats(0, 0.999)), max_size=60))
def test_runs_never_overlap_and_all_slots_come_back(steps: list[int | float]) -> None:
    """An integer takes that many slots, a fraction frees one of the runs in use."""
    segment, slots = table()
    in_use: list[Run] = []
    for step in steps:
        if isinstance(step, int):
            run = slots.take(step)
            if run is not None:
                in_use.append(run)
            taken = sorted(slot for run in in_use for slot in range(run.first, run.first + run.count))
            assert len(taken) == len(set(taken)) and all(0 <= slot < SLOTS for slot in taken)
            if run is None:  # then no gap was wide enough
                free = "".join(" " if slot in taken else "f" for slot in range(SLOTS))
                assert max(map(len, free.split()), default=0) < step
        elif in_use:
            slots.free(in_use.pop(int(step * len(in_use))))
    for run in in_use:
        slots.free(run)
    assert slots.take(SLOTS) is not None
    assert not segment.stamps.any()


def test_the_lowest_place_is_taken_first() -> None:
    _, slots = table()
    runs = [slots.take(2) for _ in range(4)]
    assert [run.first for run in runs if run] == [0, 2, 4, 6]
    for run in (runs[0], runs[2]):
        assert run is not None
        slots.free(run)
    again = [slots.take(1), slots.take(2), slots.take(1)]
    assert [run.first for run in again if run] == [0, 4, 1]


@pytest.mark.parametrize(
    ("nbytes", "count"), [(0, 1), (1, 1), (SLOT_BYTES, 1), (SLOT_BYTES + 1, 2), (SLOTS * SLOT_BYTES, SLOTS)]
)
def test_a_payload_takes_as_many_slots_as_it_needs(nbytes: int, count: int) -> None:
    assert table()[1].slots_for(nbytes) == count


def test_more_than_all_slots_is_refused() -> None:
    with pytest.raises(PayloadTooLargeError, match=r"raise ipc.options.capacity_mb"):
        table()[1].slots_for(SLOTS * SLOT_BYTES + 1)


def test_memory_of_slots_does_not_overlap_the_stamps() -> None:
    segment, slots = table()
    run = slots.take(SLOTS)
    assert run is not None
    segment.stamps[:] = np.arange(SLOTS, dtype=np.uint64) + 1
    segment.memory(run.first, 0, SLOTS * SLOT_BYTES)[:] = 255
    assert (segment.stamps == np.arange(SLOTS) + 1).all()
    assert segment.contains(segment.base, SLOTS * SLOT_BYTES)
    assert not segment.contains(segment.base, SLOTS * SLOT_BYTES + 1)
    assert not segment.contains(segment.base - 1, 1)
