from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import accumulate, pairwise

import pytest

from harness.protocols import Evidence, Reply, Request, Transcript
from harness.spans import now_ns
from harness.workload.loops import Completed, closed_loop, offline_loop, open_loop


class SleepyService:
    """A real service with a stated service time; it stalls once where it is told to."""

    def __init__(self, service_s: float, stall_at: int = -1, stall_s: float = 0.0) -> None:
        self._service_s, self._stall_at, self._stall_s = service_s, stall_at, stall_s

    def start(self) -> None: ...

    def warm_up(self, lengths_s: Iterable[float]) -> None: ...

    def handle(self, request: Request) -> Reply:
        started = now_ns()
        stalled = request.request_id == str(self._stall_at)
        time.sleep(self._service_s + (self._stall_s if stalled else 0.0))
        return Reply(request.request_id, Transcript(request.request_id), (), started, now_ns())

    def evidence(self) -> Evidence:
        return {}

    def close(self) -> None: ...


def fetch(index: int) -> Request:
    return Request(str(index), b"")


def test_a_closed_loop_sends_one_at_a_time() -> None:
    done: list[Completed] = []
    closed_loop(SleepyService(0.001), fetch, [range(5)], done.append)
    assert [d.index for d in done] == [0, 1, 2, 3, 4]
    assert all(later.scheduled_ns >= earlier.reply.finished_ns for earlier, later in pairwise(done))


def test_every_client_of_a_closed_loop_sends_when_its_last_is_answered() -> None:
    done: list[Completed] = []
    fetched: list[int] = []

    def fetch_and_note(index: int) -> Request:
        fetched.append(index)
        return fetch(index)

    closed_loop(SleepyService(0.02), fetch_and_note, [range(3, 10), range(10, 15)], done.append, clients=4)
    assert sorted(d.index for d in done) == fetched == list(range(3, 15))
    moments = sorted([(d.scheduled_ns, 1) for d in done] + [(d.reply.finished_ns, -1) for d in done])
    assert max(accumulate(change for _, change in moments)) == 4
    first, second = ([d for d in done if (d.index < 10) is share] for share in (True, False))
    assert max(d.reply.finished_ns for d in first) <= min(d.scheduled_ns for d in second)
    assert len({d.reply.request_id for d in done}) == 12


@pytest.mark.parametrize("clients", [1, 3])
def test_an_error_ends_a_closed_loop(clients: int) -> None:
    def broken(index: int) -> Request:
        if index == 5:
            raise ValueError("no such recording")
        return fetch(index)

    done: list[Completed] = []
    with pytest.raises(ValueError, match="no such recording"):
        closed_loop(SleepyService(0.001), broken, [range(1000)], done.append, clients)
    assert len(done) < 500


def test_an_open_loop_charges_a_stall_to_every_request_it_delayed() -> None:
    done: list[Completed] = []
    offsets = [0.01 * n for n in range(20)]
    open_loop(SleepyService(0.0005, stall_at=5, stall_s=0.1), fetch, offsets, 1, done.append)
    latency = {d.index: (d.reply.finished_ns - d.scheduled_ns) * 1e-9 for d in done}
    assert sorted(latency) == list(range(20))
    assert latency[5] >= 0.1
    assert latency[6] >= 0.09 - 0.001  # scheduled 10 ms into the stall, and charged for the rest of it
    assert latency[9] >= 0.06 - 0.001
    scheduled = [d.scheduled_ns for d in sorted(done, key=lambda d: d.index)]
    assert [round((b - a) * 1e-6) for a, b in pairwise(scheduled)] == [10] * 19


def test_the_generators_own_lag_is_visible() -> None:
    done: list[Completed] = []
    open_loop(SleepyService(0.0), fetch, [0.0, 0.002, 0.004], 1, done.append)
    assert all(d.dispatched_ns >= d.scheduled_ns for d in done)


def test_more_clients_serve_at_once() -> None:
    done: list[Completed] = []
    open_loop(SleepyService(0.05), fetch, [0.0] * 4, 4, done.append)
    starts = [d.reply.started_ns for d in done]
    first_end = min(d.reply.finished_ns for d in done)
    assert max(starts) < first_end


def test_an_error_in_a_client_thread_ends_the_loop() -> None:
    class Broken(SleepyService):
        def handle(self, request: Request) -> Reply:  # noqa: ARG002
            raise ValueError("the service broke its contract")

    with pytest.raises(ValueError, match="broke its contract"):
        open_loop(Broken(0.0), fetch, [0.0, 0.01], 1, lambda _done: None)


def test_an_offline_loop_takes_everything_in_order() -> None:
    read: list[int] = []

    def noted(index: int) -> Request:
        read.append(index)
        return fetch(index)

    offline_loop(SleepyService(0.0), noted, [4, 2, 0, 1, 3], 1, lambda _done: None)
    assert read == [4, 2, 0, 1, 3]


def test_an_offline_loop_counts_from_the_first_byte() -> None:
    done: list[Completed] = []
    read: dict[int, int] = {}

    def read_slowly(index: int) -> Request:
        time.sleep(0.002)
        read[index] = now_ns()
        return fetch(index)

    offline_loop(SleepyService(0.005), read_slowly, [4, 2, 0, 1, 3], 2, done.append)
    assert sorted(d.index for d in done) == [0, 1, 2, 3, 4]
    assert len({d.scheduled_ns for d in done}) == 1  # all are there at the start
    assert all(d.scheduled_ns <= d.dispatched_ns < read[d.index] for d in done)
    moments = sorted([(d.dispatched_ns, 1) for d in done] + [(d.reply.finished_ns, -1) for d in done])
    assert max(accumulate(change for _, change in moments)) == 2
