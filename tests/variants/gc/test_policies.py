"""What each choice does to the collector, and what is recorded of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from harness.spans import now_ns
from variants import registry
from variants.gc.types import GcPolicy, PauseLog, make_heap
from variants.topology.types import CommitStream, Completion, Done, Job, PushAudio

POLICIES = ["default", "frozen", "disabled"]


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[GcPolicy]:
    name, options = request.param
    built: GcPolicy = registry.make("gc", name, options)
    yield built
    built.close()
    gc.collect()


def with_options(*names: str, **options: Any) -> Any:
    return pytest.mark.parametrize("policy", [(name, options) for name in names], indirect=True, ids=names)


@pytest.mark.parametrize("objects", [0, 1, 9, 10, 1234, 50_000])
def test_the_heap_has_as_many_containers_as_stated(objects: int) -> None:
    gc.collect()
    gc.disable()  # a collection in between would take what is not the heap's
    try:
        before = len(gc.get_objects())
        heap = make_heap(objects)
        assert len(gc.get_objects()) - before == objects + 1  # the list that holds them
        del heap
    finally:
        gc.enable()


@with_options("default", objects=20_000)
def test_default_leaves_the_collector_as_python_has_it(policy: GcPolicy) -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()  # 3.12 freezes some of its own
    policy.after_startup()
    evidence = policy.evidence()["gc"]
    assert evidence["enabled"]
    assert evidence["frozen_objects"] == frozen
    assert tuple(evidence["thresholds"]) == thresholds


@with_options("frozen", objects=20_000)
def test_frozen_moves_the_start_up_heap_out_of_the_collector_s_sight(policy: GcPolicy) -> None:
    policy.after_startup()
    assert policy.evidence()["gc"]["frozen_objects"] >= 20_000
    assert len(gc.get_objects()) < 20_000


@with_options("disabled", objects=100)
def test_disabled_never_collects(policy: GcPolicy) -> None:
    policy.after_startup()
    keep = [[] for _ in range(50_000)]
    evidence = policy.evidence()["gc"]
    assert not evidence["enabled"]
    assert sum(generation["collections"] for generation in evidence["generations"].values()) == 0
    del keep


@with_options("frozen", objects=1000)
def test_a_heap_that_was_thawed_again_is_told(policy: GcPolicy) -> None:
    policy.after_startup()
    assert "not_engaged" not in policy.evidence()["gc"]
    gc.unfreeze()
    assert "fewer than the 1000" in policy.evidence()["gc"]["not_engaged"]


@with_options("disabled", objects=100)
def test_a_collector_that_was_enabled_again_is_told(policy: GcPolicy) -> None:
    policy.after_startup()
    assert "not_engaged" not in policy.evidence()["gc"]
    gc.enable()
    assert "enabled the collector again" in policy.evidence()["gc"]["not_engaged"]


@with_options(*POLICIES, objects=100)
def test_closing_gives_the_defaults_back(policy: GcPolicy) -> None:
    callbacks = list(gc.callbacks)
    policy.after_startup()
    policy.close()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


@with_options("default", objects=1000)
def test_every_collection_is_recorded_with_its_generation_and_time(policy: GcPolicy) -> None:
    policy.after_startup()
    before_ns = now_ns()
    for generation in (0, 1, 2, 2):
        gc.collect(generation)
    after_ns = now_ns()
    pauses = [pause for pause in policy.pauses() if pause.start_ns >= before_ns]
    assert [pause.generation for pause in pauses][-4:] == [0, 1, 2, 2]
    assert all(before_ns <= pause.start_ns <= pause.end_ns <= after_ns for pause in pauses)
    full = policy.evidence()["gc"]["generations"]["2"]
    assert full["collections"] >= 2
    assert full["max_s"] > 0


def test_the_log_makes_nothing_that_the_collector_tracks() -> None:
    log = PauseLog()
    log.start()
    gc.collect()
    tracked = len(gc.get_objects())
    for _ in range(200):
        gc.collect(0)
    gc.collect()
    assert len(gc.get_objects()) <= tracked + 2
    log.stop()
    assert len(log.pauses()) >= 201


# ---------------------------------------------------------------- words of live sessions


class AtOnce:
    """A backend that completes every job before ``submit`` returns."""

    def submit(self, job: Job, done: Done) -> None:
        done(Completion(job, None, None, None, 0, 0))


@with_options("default", words_per_answer=5, answers_kept=10)
def test_an_utterance_s_words_are_dropped_all_at_once(policy: GcPolicy) -> None:
    backend = policy.watch(AtOnce())  # type: ignore[arg-type]
    gc.collect()
    start = len(gc.get_objects())
    alive = []
    for _ in range(30):
        backend.submit(PushAudio(1, np.zeros(0)), lambda _completion: None)
        alive.append(len(gc.get_objects()) - start)
    assert max(alive) < 80
    assert np.argmin(alive[5:15]) == 5  # after ten answers


@with_options("default", words_per_answer=5, answers_kept=0)
def test_a_live_session_keeps_its_words_until_it_ends(policy: GcPolicy) -> None:
    backend = policy.watch(AtOnce())  # type: ignore[arg-type]
    answers: list[Completion] = []
    gc.collect()
    start = len(gc.get_objects())
    for _ in range(100):
        backend.submit(PushAudio(1, np.zeros(0)), answers.append)
    while_open = len(gc.get_objects())
    backend.submit(CommitStream(1), answers.append)
    assert len(answers) == 101
    answers.clear()
    assert while_open - start >= 500
    assert len(gc.get_objects()) - start < 100


@with_options("default")
def test_without_words_the_backend_is_left_alone(policy: GcPolicy) -> None:
    backend: Any = AtOnce()
    assert policy.watch(backend) is backend
