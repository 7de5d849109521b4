"""Each recording is answered once, whatever its workers die of. They are processes, and are really killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.protocols import Request
from tests.variants.topology.process_fleet import FAILS, KILLS, KILLS_ONCE, ProcessFleet
from variants.topology.shards import Served, Shards

PLACES, SIZE, AT_ONCE, ATTEMPTS = 2, 8, 2, 2


def answers(
    shards: Shards, count: int, special: Mapping[int, bytes] | None = None, clients: int = 48
) -> dict[str, Served]:
    """What ``clients`` threads hear of recordings 0, 1, …, each asked for once."""
    payloads = [(special or {}).get(number, f"text {number}".encode()) for number in range(count)]
    requests = [Request(str(number), payload) for number, payload in enumerate(payloads)]
    with ThreadPoolExecutor(clients) as pool:
        heard = list(pool.map(shards.handle, requests))
    assert [served.reply.request_id for served in heard] == [request.request_id for request in requests]
    return {served.reply.request_id: served for served in heard}


def texts(heard: Mapping[str, Served]) -> dict[str, str | None]:
    return {name: each.reply.transcript and each.reply.transcript.text for name, each in heard.items()}


def expected(count: int, without: tuple[int, ...] = ()) -> dict[str, str | None]:
    return {str(number): None if number in without else f"TEXT {number}" for number in range(count)}


def test_what_waits_goes_out_in_shards_to_every_worker() -> None:
    with ProcessFleet(PLACES) as fleet:
        shards = Shards(fleet, PLACES, SIZE, AT_ONCE, ATTEMPTS)
        assert texts(answers(shards, 96)) == expected(96)
        found = shards.evidence()
    sizes = [len(names) for _, names in fleet.handed]
    assert max(sizes) == SIZE and sum(sizes) == 96
    assert sum(found["recordings_by_worker"]) == 96 and min(found["recordings_by_worker"]) > 0
    assert (found["shards_failed"], found["recordings_done_again"], found["deaths"]) == (0, 0, [])


def test_a_worker_that_dies_costs_no_recording(tmp_path: Path) -> None:
    once = KILLS_ONCE + os.fsencode(tmp_path / "mark")
    with ProcessFleet(PLACES) as fleet:
        shards = Shards(fleet, PLACES, SIZE, AT_ONCE, ATTEMPTS)
        heard = answers(shards, 96, {40: once})
    found = shards.evidence()  # of what was still starting, too
    assert {**texts(heard), "40": "TEXT 40"} == expected(96)
    assert heard["40"].reply.error is None
    assert len(found["deaths"]) == 1 and "SIGKILL" in found["deaths"][0]["how"]
    assert len(found["recordings_by_worker"]) == PLACES + 1  # another came in its place
    assert found["given_up"] == [] and found["recordings_done_again"] > 0


@pytest.mark.parametrize("poison", [KILLS, FAILS])
@pytest.mark.parametrize("places", [1, 2])
def test_what_no_worker_can_do_is_named_and_costs_its_own_row(places: int, poison: bytes) -> None:
    with ProcessFleet(places) as fleet:
        shards = Shards(fleet, places, SIZE, AT_ONCE, ATTEMPTS)
        heard = answers(shards, 60, {13: poison, 14: poison, 50: poison})
        found = shards.evidence()
    assert texts(heard) == expected(60, without=(13, 14, 50))
    assert sorted(found["given_up"]) == ["13", "14", "50"]
    why = heard["13"].reply.error
    assert why is not None and "no worker could do 13, which failed alone 2 times" in why
    assert ("SIGKILL" if poison is KILLS else "13 is too much") in why
    assert bool(found["deaths"]) == (poison is KILLS)


def test_what_failed_is_done_again_elsewhere() -> None:
    with ProcessFleet(PLACES) as fleet:
        shards = Shards(fleet, PLACES, 1, 1, ATTEMPTS)
        answers(shards, 1, {0: FAILS})
    assert [place for place, _ in fleet.handed[:2]] == [0, 1]


def test_where_nothing_is_answered_any_more_the_workers_are_given_up() -> None:
    with ProcessFleet(1) as fleet:
        shards = Shards(fleet, 1, SIZE, AT_ONCE, ATTEMPTS)
        with pytest.raises(HarnessError, match=r"answered nothing in between; the last time: .*is too much"):
            answers(shards, 40, dict.fromkeys(range(40), FAILS))


def test_workers_that_do_not_come_back_end_the_wait() -> None:
    with ProcessFleet(1, refuses_to_come_back=True) as fleet:
        shards = Shards(fleet, 1, SIZE, AT_ONCE, ATTEMPTS)
        with pytest.raises(HarnessError, match=r"nothing in between; the last time: .*exit status 3"):
            answers(shards, 1, {0: KILLS})


def test_whoever_waits_when_the_service_closes_is_told() -> None:
    with ProcessFleet(1) as fleet:
        shards = Shards(fleet, 1, SIZE, AT_ONCE, ATTEMPTS)
        shards.close()
        with pytest.raises(HarnessError, match="closing"):
            shards.handle(Request("late", b"x"))
