"""A shard's answers and their times, wherever they were given. Needs no Ray."""

from __future__ import annotations

import pytest

from harness.measure.ledger import balance
from harness.protocols import Reply, Request, ServiceSpec
from harness.spans import Span
from tests.variants.topology import parts
from variants.topology.ray import arrived
from variants.topology.shard_worker import ShardWorker, clock_name
from variants.topology.shards import Answer, Served

SHORT = parts.recording(2.0)
MS = 1_000_000


@pytest.fixture(scope="module")
def worker() -> ShardWorker:
    made = ShardWorker(ServiceSpec(parts.make_frontend, parts.make_engine, gc={"name": "frozen"}), 4)
    made.start((1.0,))
    return made


def test_a_worker_answers_as_the_service_that_it_holds(worker: ShardWorker) -> None:
    alone = parts.build("inprocess")
    alone.start()
    requests = [Request("a", SHORT), Request("b", b"RIFF no"), Request("c", SHORT)]
    for request, reply in zip(requests, worker.run(requests).replies, strict=True):
        expected = alone.handle(request)
        assert (reply.transcript, reply.error) == (expected.transcript, expected.error)
    alone.close()
    evidence = worker.evidence()
    assert evidence["engine"]["model"]["name"] == "fixed_cost" and evidence["gc"]
    assert evidence["worker"]["recordings"] >= 3 and evidence["worker"]["rss_bytes"] > 0


def shard(clock: str, shift_ns: int) -> Served:
    """Handed out at 40 ms, heard at 100; a worker whose clock is ``shift_ns`` ahead took it at 50 and gave it
    back at 98. This recording of it was answered at 90."""
    times = {"queue": (50, 55), "decode": (55, 70), "encoder": (70, 88), "reply": (88, 90)}
    spans = tuple(
        Span(name, start * MS + shift_ns, end * MS + shift_ns) for name, (start, end) in times.items()
    )
    reply = Reply("a", None, spans, 50 * MS + shift_ns, 90 * MS + shift_ns)
    answer = Answer((reply,), 50 * MS + shift_ns, 98 * MS + shift_ns, clock)
    return Served(reply, 0, 40 * MS, 100 * MS, answer)


def test_on_one_machine_the_ledger_of_a_shard_balances() -> None:
    served = shard(clock_name(), 0)
    got = arrived(served, 10 * MS, 103 * MS, clock_name())
    assert (got.started_ns, got.finished_ns) == (10 * MS, 103 * MS)
    found = balance(got.spans, 10 * MS, 103 * MS)
    assert found.unaccounted_s == 0
    assert found.seconds["queue"] == pytest.approx(
        0.030 + 0.005 + 0.003
    )  # for a worker, in it, and to be woken
    assert found.seconds["ipc"] == pytest.approx(0.010 + 0.002)
    assert found.seconds["reply"] == pytest.approx(
        0.002 + 0.008
    )  # until the others of the shard are answered


def test_another_machine_says_durations_alone() -> None:
    """Its clock stands an hour away: what it did lies in the middle, and the way is in no span."""
    served = shard("another machine", 3600 * 1000 * MS)
    found = balance(arrived(served, 10 * MS, 103 * MS, clock_name()).spans, 10 * MS, 103 * MS)
    assert "ipc" not in found.seconds
    assert found.seconds["encoder"] == pytest.approx(0.018)
    assert found.unaccounted_s == pytest.approx(0.010 + 0.002)


def test_what_was_given_up_waited_all_the_while() -> None:
    reply = Reply("a", None, (), 5, 6, error="no worker could do a")
    got = arrived(Served(reply, 0, 5, 6, None), 1 * MS, 9 * MS, clock_name())
    assert balance(got.spans, 1 * MS, 9 * MS).unaccounted_s == 0 and got.error == reply.error
