"""Live streams: the schedule, what a run says of itself, and the search for the largest load."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.errors import HarnessError, UsageError
from harness.measure.stats import Estimate, TooSmall
from harness.protocols import Engine, ServiceSpec
from harness.protocols.options import NoOptions
from harness.protocols.server import ServerPlan
from harness.protocols.sockets import Address
from harness.workload.client import StreamRecords, retracted_words
from harness.workload.intervals import block_percentiles
from harness.workload.server_process import ServerProcess
from harness.workload.streaming import (
    StreamingPlan,
    StreamingResult,
    StreamingSummary,
    StreamsInterrupted,
    fit,
    schedule,
    search_slo,
    stream_load,
)
from variants.batching import alone, continuous
from variants.models import fixed_cost

SECOND = 1_000_000_000


class NoFrontend:
    """Live streams never reach it."""

    stages = ()


def engine(**options: Any) -> Engine:
    cost = SimpleNamespace(options=fixed_cost.Options(**options))
    return alone.build(fixed_cost.build(cost), NoOptions())


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 0.2, round(seconds * 16_000)).astype(np.float32)


def checksum(samples: np.ndarray) -> str:
    return fixed_cost.Checksum().updated(samples).text


# ---------------------------------------------------------------- against a real server


@pytest.mark.parametrize("io", ["epoll", "threads", "asyncio_loop"])
@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_every_stream_gets_the_text_of_exactly_its_own_samples(io: str, encoding: str) -> None:
    plan = StreamingPlan(connections=12, duration_s=0.6, chunk_s=0.05, encoding=encoding, client_processes=2)
    recordings = [speech(0.2, seed=1), speech(0.35, seed=2)]
    with ServerProcess(ServerPlan(ServiceSpec(NoFrontend, engine), io=io)) as server:
        result = stream_load(server.address, recordings, plan)
        ended = server.stop()
    summary = result.summary([checksum(fit(recording, plan)) for recording in recordings])
    assert (summary.wrong_texts, summary.lost_chunks, summary.failed_streams) == (0, 0, 0)
    assert summary.chunks == 12 * 12
    assert len(set(result.records.texts)) == 2
    assert ended.evidence["io"]["streams"] == 12
    assert ended.evidence["io"]["frames_in"] == 12 * (1 + 12 + 1)


def test_a_client_that_cannot_connect_ends_the_load() -> None:
    plan = StreamingPlan(connections=2, client_processes=2)
    with pytest.raises(HarnessError, match="a client process failed"):
        stream_load(Address(path="/nonexistent/socket"), [speech(1.0)], plan)


def test_what_was_seen_until_an_interruption_is_kept() -> None:
    plan = StreamingPlan(connections=4, duration_s=60.0, chunk_s=0.1, client_processes=2)
    server = ServerProcess(ServerPlan(ServiceSpec(NoFrontend, engine)))
    with server, pytest.raises(StreamsInterrupted) as stopped:
        stream_load(server.address, [speech(1.0)], plan, begin=interrupted_soon)
    records = stopped.value.result.records
    assert records.errors == ("the run was interrupted",) * 4
    assert (records.acked_ns > 0).any(axis=1).all()


def interrupted_soon() -> None:
    main_thread = threading.get_ident()
    threading.Timer(1.5, lambda: signal.pthread_kill(main_thread, signal.SIGINT)).start()


def test_chunks_longer_than_a_socket_buffer_arrive_whole() -> None:
    plan = StreamingPlan(connections=3, duration_s=2.24, chunk_s=1.12, encoding="f32le")
    recording = speech(2.24)
    spec = ServiceSpec(NoFrontend, partial(engine, partial_every_s=0.0))
    with ServerProcess(ServerPlan(spec, io_options={"max_frame_bytes": 1 << 17})) as server:
        summary = stream_load(server.address, [recording], plan).summary([checksum(fit(recording, plan))])
    assert (summary.wrong_texts, summary.lost_chunks) == (0, 0)
    assert summary.first_text_p50_s is None


def test_text_comes_while_the_stream_still_speaks() -> None:
    plan = StreamingPlan(connections=70, duration_s=0.5, chunk_s=0.1)
    spec = ServiceSpec(NoFrontend, partial(engine, partial_every_s=0.2))
    with ServerProcess(ServerPlan(spec)) as server:
        result = stream_load(server.address, [speech(0.5)], plan)
    assert len(result.by_stream()["first_text_s"]) == 70
    assert np.all(result.records.first_text_ns < result.records.final_ns)
    assert np.all(result.by_stream()["first_text_s"] >= 0.2)


def test_sound_may_come_faster_than_it_was_spoken() -> None:
    plan = StreamingPlan(connections=3, duration_s=1.0, chunk_s=0.1, speed=4.0)
    with ServerProcess(ServerPlan(ServiceSpec(NoFrontend, partial(engine, partial_every_s=0.2)))) as server:
        result = stream_load(server.address, [speech(1.0)], plan)
    assert (np.diff(result.records.scheduled_ns, axis=1) == 25_000_000).all()
    assert (result.records.sent_ns >= result.records.scheduled_ns).all()
    assert (result.by_stream()["first_text_s"] >= 0.05).all()
    assert result.summary([checksum(fit(speech(1.0), plan))]).wrong_texts == 0


def test_a_stream_that_the_server_refuses_makes_the_run_invalid() -> None:
    plan = StreamingPlan(connections=5, duration_s=0.2, chunk_s=0.1)
    with ServerProcess(
        ServerPlan(ServiceSpec(NoFrontend, engine), io_options={"max_connections": 2})
    ) as server:
        summary = stream_load(server.address, [speech(0.2)], plan).summary()
    assert summary.failed_streams == 3
    assert not summary.valid
    assert any("3 streams failed" in reason for reason in summary.reasons)


def crowded() -> Engine:
    cost = SimpleNamespace(options=fixed_cost.Options())
    return continuous.build(fixed_cost.build(cost), continuous.Options(max_streams=3))


def test_streams_for_which_there_is_no_slot_are_refused_at_once_and_counted_apart() -> None:
    plan = StreamingPlan(connections=5, duration_s=0.6, chunk_s=0.1)
    with ServerProcess(ServerPlan(ServiceSpec(NoFrontend, crowded))) as server:
        result = stream_load(server.address, [speech(0.6)], plan)
        streams = server.stop().evidence["engine"]["batching"]["streams"]
    summary = result.summary([checksum(fit(speech(0.6), plan))] * 5)
    assert (summary.refused_streams, summary.failed_streams, summary.lost_chunks) == (2, 0, 0)
    assert summary.reasons[0].startswith("2 streams were refused; the first: busy: no free slot")
    assert (streams["slots"], streams["most_open"], streams["refused"]) == (3, 3, 2)


def test_the_server_process_reports_a_wrong_option_to_its_parent() -> None:
    plan = ServerPlan(ServiceSpec(NoFrontend, engine), io_options={"idle_timeout": 1})
    with pytest.raises(UsageError, match=r"io\.options\.idle_timeout: no such key"), ServerProcess(plan):
        pass


# ---------------------------------------------------------------- the schedule


def test_the_schedule_depends_on_the_plan_alone() -> None:
    plan = StreamingPlan(connections=50, seed=3)
    first, second = schedule(plan, 4), schedule(plan, 4)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[1].max() < plan.chunk_s


# ---------------------------------------------------------------- what a run says of itself


def result_of(latencies_s: np.ndarray, lag_s: float = 0.0, chunk_s: float = 0.1) -> StreamingResult:
    """A result with given chunk latencies ``[C, K]``; NaN is a chunk that was lost."""
    connections, chunks = latencies_s.shape
    scheduled = (
        np.tile((np.arange(1, chunks + 1) * chunk_s * SECOND).astype(np.int64), (connections, 1)) + SECOND
    )
    lost = np.isnan(latencies_s)
    acked = np.where(lost, 0, scheduled + np.nan_to_num(latencies_s * SECOND).astype(np.int64))
    records = StreamRecords(
        scheduled_ns=scheduled,
        sent_ns=scheduled + int(lag_s * SECOND),
        acked_ns=acked,
        first_text_ns=np.zeros(connections, np.int64),
        final_ns=scheduled[:, -1] + SECOND // 100,
        retracted=np.zeros(connections, np.int64),
        texts=("",) * connections,
        errors=("",) * connections,
        refused_sends=0,
        cpu_s=0.0,
    )
    plan = StreamingPlan(connections=connections, chunk_s=chunk_s, duration_s=chunk_s * chunks)
    return StreamingResult(plan, SECOND, np.zeros(connections, np.int64), records)


def test_a_stall_is_charged_to_every_chunk_that_it_delayed() -> None:
    latencies = np.full((4, 100), 0.002)
    latencies[:, 50:52] = [0.2, 0.1]
    summary = result_of(latencies).summary()
    assert isinstance(summary.p50, Estimate)
    assert isinstance(summary.p99, Estimate)
    assert summary.p50.value == pytest.approx(0.002)
    assert summary.p99.value == pytest.approx(0.1)
    assert summary.max_s == pytest.approx(0.2)


def test_a_late_load_generator_makes_the_run_invalid() -> None:
    summary = result_of(np.full((4, 100), 0.002), lag_s=0.02).summary()
    assert not summary.valid
    assert "the clients were late" in summary.reasons[0]


def test_a_lost_chunk_makes_the_run_invalid() -> None:
    latencies = np.full((4, 100), 0.002)
    latencies[2, 7] = np.nan
    summary = result_of(latencies).summary()
    assert summary.lost_chunks == 1
    assert not summary.valid


def test_a_wrong_text_makes_the_run_invalid() -> None:
    summary = result_of(np.full((4, 100), 0.002)).summary(["another text"])
    assert summary.wrong_texts == 4
    assert not summary.valid


def test_jitter_is_the_change_from_chunk_to_chunk() -> None:
    latencies = np.full((2, 10), 0.010)
    latencies[1, ::2] = 0.030
    assert result_of(latencies).by_stream()["jitter_s"] == pytest.approx([0.0, 0.020])


def test_the_worst_stream_s_real_time_factor_is_what_it_was_late_over_its_speech() -> None:
    result = result_of(np.full((3, 10), 0.002))
    records = replace(result.records, final_ns=result.records.final_ns + np.array([0, SECOND // 2, 0]))
    summary = replace(result, records=records).summary()
    assert summary.real_time_factor_max == pytest.approx(1.51)
    assert summary.final_max_s == pytest.approx(0.51)


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("", "the", 0),
        ("the dri", "the driver was", 0),
        ("the driver was", "the driver is", 1),
        ("the driver was lucky", "a driver was lucky", 4),
        ("the driver was", "the driver", 1),
        ("the driver", "", 2),
    ],
)
def test_words_that_a_later_text_takes_back_are_counted(before: str, after: str, count: int) -> None:
    assert retracted_words(before, after) == count


def test_too_few_chunks_give_no_percentile() -> None:
    summary = result_of(np.full((1, 10), 0.002)).summary()
    assert isinstance(summary.p95, TooSmall)


# ---------------------------------------------------------------- intervals


def test_the_interval_covers_whole_seconds_not_single_chunks() -> None:
    """One bad second of twenty decides p95; chunks resampled one by one would hide how unsure it is."""
    values = np.full(20 * 500, 0.001)
    values[:500] = 0.2
    blocks = np.repeat(np.arange(20), 500)
    (p95,) = block_percentiles(values, blocks, [0.95])
    assert isinstance(p95, Estimate)
    assert (p95.low, p95.high) == (0.001, 0.2)


def test_the_value_is_one_that_happened() -> None:
    values = np.random.default_rng(0).exponential(size=1000)
    for found in block_percentiles(values, np.arange(1000) // 100, [0.5, 0.95, 0.99]):
        assert isinstance(found, Estimate)
        assert found.value in values
        assert found.low <= found.value <= found.high


# ---------------------------------------------------------------- the search


def server_that_holds(most: int) -> Any:
    def measure(connections: int) -> StreamingSummary:
        return result_of(np.full((4, 100), 0.002 if connections <= most else 0.5)).summary()

    return measure


@pytest.mark.parametrize("holds", [1, 37, 400, 1023, 4000])
@pytest.mark.parametrize("start", [1, 100, 3000])
def test_the_search_brackets_the_largest_load_that_holds(holds: int, start: int) -> None:
    found = search_slo(server_that_holds(holds), 0.1, start, most=4000, resolution=0.0)
    assert found.largest == holds
    assert found.smallest_failed == (holds + 1 if holds < 4000 else None)
    assert len(found.steps) < 30


def test_a_search_where_nothing_holds_finds_nothing() -> None:
    found = search_slo(server_that_holds(0), 0.1, 8, most=4000)
    assert found.largest is None
    assert [step.connections for step in found.steps] == [8, 4, 2, 1]


@pytest.mark.parametrize(("limit_s", "largest"), [(0.0, 16), (0.02, 16), (0.005, None)])
def test_the_time_to_the_final_text_may_be_limited_too(limit_s: float, largest: int | None) -> None:
    """Four streams are too few for a percentile of their ends: then the last of them counts."""
    found = search_slo(server_that_holds(16), 0.1, 16, most=16, final_limit_s=limit_s)
    assert found.largest == largest
    if largest is None:
        assert "the longest time to a final text 10 ms over the limit of 5 ms" in found.steps[0].reasons


def test_every_step_says_why_it_failed() -> None:
    found = search_slo(server_that_holds(10), 0.1, 8, most=16)
    assert any("over the limit of 100 ms" in reason for step in found.steps for reason in step.reasons)
