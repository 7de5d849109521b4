"""The folder of a run: complete, killed midway, on a full disk, read-only, broken."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.errors import UnavailableError, UsageError
from harness.record import (
    MEASURED,
    Journal,
    Reason,
    RunWriter,
    Status,
    Verdict,
    VerdictStatus,
    find_finished,
    folder_name,
    read_journal,
    read_run,
    samples_frame,
    write_run,
)
from harness.record.samples import COLUMNS
from harness.spans import SPAN_NAMES
from tests.harness.runs import Recipe, make_run, process_record, samples, unmeasured

SMALL = Recipe(processes=2, requests=5)


def test_a_finished_run_reads_back_as_it_was_written(tmp_path):
    stored = make_run(tmp_path, SMALL)
    again = read_run(tmp_path / "run")
    assert again.run == stored.run
    assert again.run.status is Status.COMPLETE
    assert len(again.measured) == 10
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["run.json", "samples.parquet"]


def test_a_row_has_every_span_and_derived_column(tmp_path):
    rows = make_run(tmp_path, SMALL).measured
    assert set(COLUMNS) == set(rows.columns)
    assert {f"span_{name}_s" for name in SPAN_NAMES} < set(rows.columns)
    row = rows.iloc[0]
    assert row["latency_s"] == pytest.approx(row["finished_s"] - row["scheduled_s"])
    assert row["rtf"] == pytest.approx(row["service_s"] / row["audio_s"])
    assert row["tokens"] == len(row["token_ids"])


def test_rows_say_with_whom_they_were_computed_and_those_of_older_files_were_alone(tmp_path):
    pair = [replace(s, batch_id=7, batch_size=2) for s in samples(SMALL, 0)[:2]]
    assert samples_frame(pair)[["batch_id", "batch_size"]].to_numpy().tolist() == [[7, 2], [7, 2]]
    stored = make_run(tmp_path, SMALL)
    path = stored.folder / "samples.parquet"
    columns = ["batch_id", "batch_size", "span_batch_s", "expect_failure"]
    pq.write_table(pq.read_table(path).drop_columns(columns), path)
    rows = read_run(stored.folder).measured
    assert rows[columns[:2]].drop_duplicates().to_numpy().tolist() == [[0, 1]]
    assert not rows["expect_failure"].any()
    assert rows["span_batch_s"].isna().all()


def test_latency_counts_from_the_schedule_and_lag_is_apart():
    sample = replace(samples(SMALL, 0)[0], scheduled_s=1.0, dispatched_s=1.2, started_s=1.5, finished_s=2.0)
    assert (sample.latency_s, sample.lag_s, sample.service_s) == pytest.approx((1.0, 0.2, 0.5))


def test_a_clip_without_sound_has_no_rtf():
    row = samples_frame([replace(samples(SMALL, 0)[0], audio_s=0.0)]).iloc[0]
    assert row.isna()["rtf"]


def test_a_failed_request_is_a_row_but_no_measurement(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(SMALL))
    good, bad = [s for s in samples(SMALL, 0) if s.phase == MEASURED][:2]
    with writer.journal(process_record(0)) as journal:
        journal.append(good)
        journal.append(replace(bad, error="not audio"))
        journal.finish(process_record(0))
    stored = writer.finish(replace(writer.run, status=Status.COMPLETE))
    assert len(stored.measured) == 1
    assert list(stored.failed["error"]) == ["not audio"]


def test_half_of_a_pair_in_a_message_costs_no_row(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(SMALL))
    text = "caf\xe9 \u0085 \u2028"
    with writer.journal(process_record(0)) as journal:
        journal.append(replace(samples(SMALL, 0)[0], text=text, error="\udc80.wav is no file"))
        journal.finish(process_record(0))
    (row,) = writer.finish(replace(writer.run, status=Status.COMPLETE)).samples.to_dict("records")
    assert (row["text"], row["error"]) == (text, "\\udc80.wav is no file")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"request_id": None}, "request_id is None"),
        ({"request_id": 7}, "request_id is 7"),
        ({"text": "\ud800"}, "text is "),
        ({"sample_rate": 10**30}, "sample_rate is 1000"),
        ({"sample_rate": True}, "sample_rate is True"),
        ({"latency_s": "fast"}, "latency_s is 'fast'"),
        ({"token_ids": [1, "x"]}, r"token_ids is \[1, 'x'\]"),
    ],
)
def test_a_journal_s_line_that_fits_no_column_is_named(tmp_path, change, complaint):
    with Journal(tmp_path, process_record(0)) as journal:
        journal.append(samples(SMALL, 0)[0])
        journal.append(samples(SMALL, 0)[1])
    path = tmp_path / "process-0.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=rf"process-0\.jsonl: line 3: {complaint}"):
        read_journal(path)


def test_nested_without_end_is_no_record(tmp_path):
    make_run(tmp_path, SMALL)
    (tmp_path / "run" / "run.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"run\.json: is not JSON"):
        read_run(tmp_path / "run")
    (tmp_path / "process-0.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(UsageError, match="line 1 is not JSON"):
        read_journal(tmp_path / "process-0.jsonl")


def _measure_until_killed(folder: Path) -> None:
    with Journal(folder, process_record(0)) as journal:
        for sample in samples(SMALL, 0):
            journal.append(sample)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_is_incomplete_with_all_that_it_measured(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(SMALL))
    process = multiprocessing.get_context("fork").Process(target=_measure_until_killed, args=(writer.folder,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    stored = read_run(writer.folder)
    assert stored.run.verdict.status is VerdictStatus.INCOMPLETE
    assert "8 samples" in stored.run.verdict.reasons[0].message
    assert len(stored.measured) == 5
    assert not stored.run.processes[0].finished


def test_a_line_that_was_being_written_is_dropped(tmp_path):
    with Journal(tmp_path, process_record(0)) as journal:
        for sample in samples(SMALL, 0):
            journal.append(sample)
    path = tmp_path / "process-0.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    content = read_journal(path)
    assert content is not None
    assert len(content.rows) == len(samples(SMALL, 0)) - 1


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    with Journal(tmp_path, process_record(0)) as journal:
        journal.append(samples(SMALL, 0)[0])
    path = tmp_path / "process-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"phase"', b'"pha', 1))
    with pytest.raises(UsageError, match=r"process-0\.jsonl: line 2 is not JSON"):
        read_journal(path)


def test_two_processes_cannot_share_a_journal(tmp_path):
    Journal(tmp_path, process_record(0)).close()
    with pytest.raises(UsageError, match="already holds samples"):
        Journal(tmp_path, process_record(0))


def test_a_crash_while_finishing_loses_nothing(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(SMALL))
    with writer.journal(process_record(0)) as journal:
        for sample in samples(SMALL, 0):
            journal.append(sample)
    writer.merge()  # samples are merged, the record still says that it is running
    assert len(read_run(writer.folder).samples) == len(samples(SMALL, 0))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_what_was_measured_stays(tmp_path):
    writer = RunWriter.open(tmp_path, unmeasured(SMALL))
    with writer.journal(process_record(0)) as journal:
        for sample in samples(SMALL, 0):
            journal.append(sample)
    (writer.folder / f"samples.parquet.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UnavailableError, match=r"run: no space left on the disk"):
        writer.finish(writer.run)
    assert len(read_run(writer.folder).samples) == len(samples(SMALL, 0))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_measuring_is_named(tmp_path):
    (tmp_path / "process-0.jsonl").symlink_to("/dev/full")
    with pytest.raises(UnavailableError, match="no space left"):
        Journal(tmp_path, process_record(0))


def test_a_read_only_results_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative, because an unprivileged user cannot enter the folders above
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(UsageError, match="results: not writable"):
            RunWriter.open(Path("results"), unmeasured(SMALL))
    finally:
        if user == 0:
            os.seteuid(0)


def test_a_name_that_no_file_system_takes_is_named_or_cut(tmp_path):
    with pytest.raises(UsageError, match="File name too long; choose another"):
        RunWriter.open(tmp_path / ("x" * 300), unmeasured(SMALL))
    name = folder_name("é" * 300)
    (tmp_path / f"20260521-120000-{name}-1a2b").mkdir()
    assert set(name) == {"é"}


def test_a_file_in_the_place_of_the_results_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UsageError, match="results: a file is in the way"):
        RunWriter.open(tmp_path / "results", unmeasured(SMALL))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), r"run\.json: is missing"),
        (lambda folder: (folder / "run.json").write_text("{"), r"run\.json: is not JSON"),
        (lambda folder: (folder / "samples.parquet").unlink(), r"samples\.parquet: is missing"),
        (lambda folder: (folder / "samples.parquet").write_text("x"), r"samples\.parquet: cannot be read"),
    ],
)
def test_a_broken_folder_is_named_with_a_remedy(tmp_path, damage, message):
    make_run(tmp_path, SMALL)
    damage(tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        read_run(tmp_path / "run")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        read_run(tmp_path / "nowhere")


def test_a_file_from_before_a_span_had_its_name_still_reads(tmp_path):
    make_run(tmp_path, SMALL)
    path = tmp_path / "run" / "samples.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["span_reply_s"]), path)
    rows = read_run(tmp_path / "run").samples
    assert rows["span_reply_s"].isna().all()
    assert rows["span_encoder_s"].notna().all()


def test_writing_replaces_the_record_as_a_whole(tmp_path):
    run = unmeasured(SMALL)
    write_run(tmp_path, run)
    write_run(tmp_path, replace(run, variant="compiled"))
    assert json.loads((tmp_path / "run.json").read_text())["variant"] == "compiled"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_sweep_finds_finished_runs_of_the_same_content_only(tmp_path):
    make_run(tmp_path, replace(SMALL, run_id="done"))
    RunWriter.open(tmp_path, replace(unmeasured(replace(SMALL, run_id="killed")), content_hash="killed"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert find_finished(tmp_path, "content of done") == tmp_path / "done"
    invalid = {"verdict": Verdict(VerdictStatus.INVALID, (Reason("lag", "late"),))}
    make_run(tmp_path, replace(SMALL, run_id="invalid", changes=invalid))
    unverified = {"verdict": Verdict(VerdictStatus.UNVERIFIED)}
    make_run(tmp_path, replace(SMALL, run_id="unverified", changes=unverified))
    assert find_finished(tmp_path, "killed") is None
    assert find_finished(tmp_path, "content of invalid") is None  # a sweep measures it again
    assert find_finished(tmp_path, "content of unverified") == tmp_path / "unverified"
    assert find_finished(tmp_path, "something else") is None
