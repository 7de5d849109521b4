"""A run's figures: overall, per bucket, weighted by the set's mix."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import UsageError
from harness.measure.metrics import metric, mix_weights, wall_shares_s
from harness.measure.stats import Estimate, TooSmall, nearest_rank
from harness.measure.summary import figures_of, summarize, summary_from_json, summary_to_json
from harness.record import MEASURED, Mode, samples_frame
from harness.report import write_report
from tests.harness.runs import Recipe, make_run, samples


def test_every_bucket_and_the_mix_have_figures(tmp_path):
    stored = make_run(tmp_path, Recipe(processes=2))
    summary = summarize(stored)
    assert [scope.name for scope in summary.scopes] == ["all", "weighted", "00-02s", "02-05s", "05-10s"]
    overall = summary.overall
    assert overall is not None
    p50 = overall.latency["p50"]
    assert isinstance(p50, Estimate)
    assert p50.value == nearest_rank(stored.measured["latency_s"], 0.5)
    assert overall.latency["p99"] == TooSmall(240, 299)
    assert sum(overall.spans.values()) + overall.unaccounted_s == pytest.approx(
        stored.measured["latency_s"].mean()
    )


def test_weights_restore_the_mix_however_often_a_bucket_was_served(tmp_path):
    rows = make_run(tmp_path, Recipe(processes=2)).measured
    weights = mix_weights(rows, {"00-02s": 0.7, "02-05s": 0.2, "05-10s": 0.1})
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    assert weights[(rows["bucket"] == "00-02s").to_numpy()].sum() == pytest.approx(0.7)


def test_a_bucket_that_was_never_served_leaves_no_weighted_figure(tmp_path):
    rows = make_run(tmp_path, Recipe(processes=1)).measured
    assert mix_weights(rows, {"00-02s": 0.5, "30s+": 0.5}) is None
    assert mix_weights(rows, {}) is None


def test_rtfx_is_audio_over_the_wall_time_of_all_processes(tmp_path):
    stored = make_run(tmp_path, Recipe(processes=2))
    rows = stored.measured
    wall_s = sum(part["finished_s"].max() - part["dispatched_s"].min() for _, part in rows.groupby("process"))
    assert wall_shares_s(rows).sum() == pytest.approx(wall_s)
    rtfx = summarize(stored).rtfx
    assert isinstance(rtfx, Estimate)
    assert rtfx.value == pytest.approx(rows["audio_s"].sum() / wall_s)


def test_wall_time_is_not_counted_twice_when_requests_overlap():
    first, second = [s for s in samples(Recipe(requests=2), 0) if s.phase == MEASURED]
    together = samples_frame(
        [
            replace(first, dispatched_s=0.0, started_s=0.0, finished_s=1.0),
            replace(second, dispatched_s=0.0, started_s=0.0, finished_s=1.5),
        ]
    )
    assert wall_shares_s(together).tolist() == [1.0, 0.5]


def test_wall_time_leaves_out_another_process_s_turn():
    first, second, third = [s for s in samples(Recipe(requests=3), 0) if s.phase == MEASURED]
    turns = samples_frame(
        [
            replace(first, dispatched_s=0.0, started_s=0.0, finished_s=1.0),
            replace(second, dispatched_s=5.0, started_s=5.0, finished_s=8.0),
            replace(third, dispatched_s=6.0, started_s=6.0, finished_s=6.5),
        ]
    )
    assert wall_shares_s(turns).tolist() == [1.0, 1.5, 1.5]


def test_arrivals_on_a_schedule_have_no_rtfx(tmp_path):
    assert summarize(make_run(tmp_path, Recipe(processes=1, mode=Mode.OPEN))).rtfx is None


def test_clips_without_sound_have_latency_but_no_rtf(tmp_path):
    stored = make_run(tmp_path, Recipe(processes=1, requests=40))
    rows = stored.samples.copy()
    silent = rows.index[rows["phase"] == MEASURED][:3]
    rows.loc[silent, "rtf"] = np.nan
    overall = summarize(replace(stored, samples=rows)).overall
    assert overall is not None
    assert isinstance(overall.latency["p50"], Estimate)
    assert overall.latency["p50"].n == 40
    assert isinstance(overall.rtf["p50"], Estimate)
    assert overall.rtf["p50"].n == 37


def test_the_summary_is_json_and_says_what_is_too_small(tmp_path):
    document = summary_to_json(summarize(make_run(tmp_path, Recipe(processes=1, requests=30))))
    again = json.loads(json.dumps(document))
    assert again["scopes"]["all"]["latency_s"]["p95"] == {"too_small": {"n": 30, "needed": 59}}
    assert again["wer"]["deletions"] == 0


@pytest.mark.parametrize(
    "recipe", [Recipe(processes=2), Recipe(requests=30, mode=Mode.OPEN), Recipe(requests=3)]
)
def test_a_run_s_figures_are_read_from_its_record(tmp_path, recipe):
    """They were resampled once, when it was judged."""
    stored = make_run(tmp_path, recipe)
    found = summarize(stored)
    document = json.loads(json.dumps(summary_to_json(found), allow_nan=False))
    assert summary_from_json(document) == found
    judged = replace(stored, run=replace(stored.run, summary={"figures": document}))
    assert figures_of(replace(judged, samples=judged.samples.iloc[:0])) == found
    assert figures_of(stored) == found


@pytest.mark.parametrize("length", [0.0, float("nan")])
def test_recordings_of_no_or_unknown_length_have_latency_alone(tmp_path, length):
    stored = make_run(tmp_path, Recipe(processes=2, requests=40))
    rows = stored.samples.assign(audio_s=length, rtf=np.nan, bucket="unknown")
    unknown = replace(stored, samples=rows)
    summary = summarize(unknown)
    assert summary.rtfx is None
    assert summary.overall is not None
    assert isinstance(summary.overall.latency["p50"], Estimate)
    json.dumps(summary_to_json(summary), allow_nan=False)
    assert (write_report([unknown], tmp_path / "report").parent / "latency.png").is_file()


@pytest.mark.parametrize("name", ["latency.p50", "span.encoder.p95", "rtf.p90", "rtfx", "wer", "memory.gpu"])
def test_metrics_have_names(name):
    assert metric(name).name == name


@pytest.mark.parametrize("name", ["latency", "latency.p5", "span.warp.p50", "latency.p00", "speed"])
def test_a_name_that_is_no_metric_is_answered_with_the_names_that_are(name):
    with pytest.raises(UsageError, match="metrics are latency"):
        metric(name)
