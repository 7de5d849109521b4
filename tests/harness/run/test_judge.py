"""Verdicts over what processes left: whose failures they are, and whether anybody checked the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InvalidMeasurementError
from harness.publish import publish
from harness.record import (
    Journal,
    Mode,
    ParityStatus,
    Run,
    RunWriter,
    Sample,
    Status,
    StoredRun,
    Tolerance,
    VerdictStatus,
)
from harness.report import text_summary
from harness.report.content import entries, warnings
from harness.run.judge import judge
from harness.side_by_side import compare_runs
from tests.harness.runs import Recipe, process_record, samples, unmeasured

Change = Callable[[Sample], Any]
ENGAGED = {"topology": {"processes": 1}, "engine": {"model": {"name": "tiny"}}}


def same(sample: Sample) -> Sample:
    return sample


def failing(*recordings: str) -> Change:
    """Requests of these recordings fail."""

    def change(sample: Sample) -> Sample:
        return replace(sample, error="not audio", text="") if sample.request_id in recordings else sample

    return change


def judged(
    folder: Path,
    of_variant: Change = same,
    of_reference: Change | None = same,
    *,
    itself: bool = False,
    **recipe: Any,
) -> StoredRun:
    """A run of one process whose rows, and those of its reference, are changed; None: there is none."""
    rows = samples(Recipe(processes=1, requests=60, noise=0.0, **recipe), 0)
    run: Run = replace(unmeasured(Recipe(**recipe)), status=Status.COMPLETE)
    run = replace(run, config={**run.config, "runner": {"max_failed_share": 0.05}})
    writer = RunWriter.open(folder, run)
    record = replace(process_record(0), evidence=ENGAGED)
    with writer.journal(record) as journal:
        for row in rows:
            journal.append(of_variant(row))
        journal.finish(record)
    if of_reference is not None:
        (writer.folder / "reference").mkdir()
        with Journal(writer.folder / "reference", record) as journal:
            for row in rows:
                if (answer := of_reference(row)) is not None:
                    journal.append(answer)
    merged = writer.merge()
    run = replace(run, processes=merged.processes)
    return writer.finish(judge(run, merged.samples, writer.folder, (), itself))


def rules(stored: StoredRun) -> list[str]:
    return [reason.rule for reason in stored.run.verdict.reasons]


def requests_of(stored: StoredRun) -> list[str]:
    """Recordings, the most frequent first."""
    rows = stored.samples[stored.samples["phase"] == "measured"]
    return list(rows["request_id"].value_counts().index)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return requests_of(judged(tmp_path_factory.mktemp("whole")))


def test_a_run_with_the_references_answers_is_valid(tmp_path: Path) -> None:
    stored = judged(tmp_path)
    assert stored.run.verdict.status is VerdictStatus.VALID
    assert stored.run.verdict.reasons == ()


# ---------------------------------------------------------------- failures


def test_a_single_failure_that_the_reference_does_not_share_voids_the_run(
    tmp_path: Path, recordings: list[str]
) -> None:
    stored = judged(tmp_path, failing(recordings[-1]))
    assert stored.run.verdict.status is VerdictStatus.INVALID
    (reason,) = stored.run.verdict.reasons
    assert reason.rule == "requests"
    assert recordings[-1] in reason.message
    assert "not audio" in reason.message


def test_a_failure_that_the_reference_shares_is_the_recordings_and_named(
    tmp_path: Path, recordings: list[str]
) -> None:
    bad = failing(recordings[-1])
    stored = judged(tmp_path, bad, bad)
    assert stored.run.verdict.status is VerdictStatus.VALID
    (told,) = [w for w in warnings(entries([stored])[0]) if "failed" in w]
    assert recordings[-1] in told


def test_many_shared_failures_void_the_run(tmp_path: Path, recordings: list[str]) -> None:
    bad = failing(*recordings[1:])
    stored = judged(tmp_path, bad, bad)
    assert rules(stored) == ["requests"]
    assert "runner.max_failed_share" in stored.run.verdict.reasons[0].message


def test_where_every_request_fails_nothing_was_measured(tmp_path: Path, recordings: list[str]) -> None:
    bad = failing(*recordings)
    expected = judged(tmp_path / "a", lambda sample: replace(bad(sample), expect_failure=True), bad)
    for stored in (judged(tmp_path / "b", bad, bad), expected):
        assert stored.run.verdict.status is VerdictStatus.INVALID
        assert rules(stored) == ["requests"]


def test_a_reference_that_fails_only_now_and_then_is_the_variant_at_fault(
    tmp_path: Path, recordings: list[str]
) -> None:
    """The reference is its own: what it answers once is no fault of the recording."""
    failed: list[str] = []

    def once(sample: Sample) -> Sample:
        if sample.request_id == recordings[0] and sample.phase == "measured" and not failed:
            failed.append(sample.request_id)
            return replace(sample, error="out of memory")
        return sample

    assert rules(judged(tmp_path / "once", once, None, itself=True)) == ["requests"]
    always = judged(tmp_path / "always", failing(recordings[-1]), None, itself=True)
    assert always.run.verdict.status is VerdictStatus.VALID


def test_a_recording_that_is_to_fail_may(tmp_path: Path, recordings: list[str]) -> None:
    def to_fail(sample: Sample) -> Sample:
        bad = failing(*recordings[:3])(sample)
        return replace(bad, expect_failure=bad.error is not None)

    stored = judged(tmp_path, to_fail, to_fail)
    assert stored.run.verdict.status is VerdictStatus.VALID
    assert not [w for w in warnings(entries([stored])[0]) if "failed" in w]


def test_a_recording_that_is_to_fail_and_does_not_is_a_finding(tmp_path: Path, recordings: list[str]) -> None:
    stored = judged(
        tmp_path, lambda sample: replace(sample, expect_failure=sample.request_id == recordings[0])
    )
    (told,) = [w for w in warnings(entries([stored])[0]) if "expected to fail" in w]
    assert recordings[0] in told


# ---------------------------------------------------------------- answers that nobody could check


def test_an_empty_reference_withholds_the_speed(tmp_path: Path) -> None:
    stored = judged(tmp_path, of_reference=None)
    (stored.folder / "reference").mkdir()
    (stored.folder / "reference" / "process-0.jsonl").touch()
    again = judge(stored.run, stored.samples, stored.folder, (), itself=False)
    assert again.verdict.status is VerdictStatus.INVALID
    assert [reason.rule for reason in again.verdict.reasons] == ["parity"]
    assert again.parity is not None
    assert again.parity.status is ParityStatus.UNDECIDED


def test_an_answer_that_the_reference_refuses_is_undecided(tmp_path: Path, recordings: list[str]) -> None:
    stored = judged(tmp_path, of_reference=failing(recordings[0]))
    assert rules(stored) == ["parity"]
    assert recordings[0] in stored.run.verdict.reasons[0].message


def test_undecided_output_is_neither_shown_nor_published_nor_compared(tmp_path: Path) -> None:
    """A few recordings that differ are too few to say by how much the word error rate does."""

    def few(sample: Sample) -> Sample:
        return replace(sample, request_id=f"{int(sample.request_id[-1]) % 3}")

    def deaf(sample: Sample) -> Sample:
        return replace(few(sample), text="what", token_ids=(1,))

    stored = judged(tmp_path, deaf, few, tolerance=Tolerance("wer", 0.01), transcripts=False)
    assert stored.run.parity is not None
    assert stored.run.parity.status is ParityStatus.UNDECIDED
    assert stored.run.verdict.status is VerdictStatus.INVALID
    assert "where the time goes" not in text_summary(stored)
    with pytest.raises(InvalidMeasurementError):
        publish([stored.folder], tmp_path / "kept")
    with pytest.raises(InvalidMeasurementError):
        compare_runs(stored, stored)


def test_without_a_reference_a_run_is_unverified_and_shown_but_not_quoted(tmp_path: Path) -> None:
    stored = judged(tmp_path, of_reference=None)
    assert stored.run.verdict.status is VerdictStatus.UNVERIFIED
    shown = text_summary(stored)
    assert "p50" in shown
    assert shown.count("runner.reference=true") == 1
    with pytest.raises(InvalidMeasurementError, match=r"runner\.reference"):
        compare_runs(stored, stored)
    with pytest.raises(InvalidMeasurementError):
        publish([stored.folder], tmp_path / "kept")


# ---------------------------------------------------------------- live streams


def test_live_streams_are_held_to_the_eager_references_streams(tmp_path: Path) -> None:
    def spoken(sample: Sample) -> Sample:
        return replace(sample, spans={}, token_ids=())

    def other(sample: Sample) -> Sample:
        return replace(spoken(sample), text="something else")

    assert judged(tmp_path / "a", spoken, spoken, mode=Mode.STREAMING).run.parity is not None
    wrong = judged(tmp_path / "b", other, spoken, mode=Mode.STREAMING)
    assert rules(wrong) == ["parity"]
    assert wrong.run.parity is not None
    assert wrong.run.parity.reference == "the eager reference"
    silent = judged(tmp_path / "c", spoken, None, mode=Mode.STREAMING)
    assert silent.run.verdict.status is VerdictStatus.UNVERIFIED
    assert "unaccounted" not in text_summary(silent)
    assert "no time was spent" not in text_summary(silent)


def test_offline_a_part_of_the_recordings_is_held_to_the_reference(tmp_path: Path) -> None:
    """What the reference was not asked is not held against the run; what it was asked is."""

    def asked(sample: Sample) -> Sample | None:
        return sample if sample.bucket == "02-05s" else None

    def deaf(sample: Sample) -> Sample:
        return replace(sample, token_ids=(1,), text="what") if sample.bucket == "02-05s" else sample

    assert rules(judged(tmp_path / "closed", same, asked)) == ["parity"]
    stored = judged(tmp_path / "offline", same, asked, mode=Mode.OFFLINE)
    assert (rules(stored), stored.run.verdict.status) == ([], VerdictStatus.VALID)
    assert rules(judged(tmp_path / "deaf", deaf, asked, mode=Mode.OFFLINE)) == ["parity"]
