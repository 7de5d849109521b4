"""``python -m harness.compare``: ratios for runs that may be compared, a refusal for the others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from harness.compare import main
from harness.errors import InvalidMeasurementError, NotComparableError
from harness.measure.effects import Pair, effects
from harness.measure.metrics import metric
from harness.measure.stats import Estimate
from harness.record import Parity, ParityStatus, Reason, Tolerance, Verdict, VerdictStatus, write_run
from harness.side_by_side import compare_runs
from tests.harness.runs import Recipe, make_run


def drop_last_word(text: str) -> str:
    return text.rsplit(" ", 1)[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    recipes = (
        Recipe("base"),
        Recipe("again", seed=1),
        Recipe("slower", variant="slower", seed=2, encoder_factor=1.2),
        Recipe("forgetful", variant="forgetful", seed=3, say=drop_last_word),
        Recipe("few", seed=4, requests=20, processes=2),
    )
    return {recipe.run_id: make_run(results, recipe) for recipe in recipes}


def ratio(comparison, name, scope="all") -> Estimate:
    (found,) = [c for c in comparison.effects if (c.metric.name, c.scope) == (name, scope)]
    assert isinstance(found.change, Estimate)
    return found.change


def test_the_interval_of_a_ratio_holds_the_true_one(runs):
    comparison = compare_runs(runs["base"], runs["slower"])
    encoder = ratio(comparison, "span.encoder.p50")
    assert encoder.low < 1.2 < encoder.high
    assert encoder.low > 1.1
    decoder = ratio(comparison, "span.decoder.p50")
    assert decoder.low < 1.0 < decoder.high
    assert ratio(comparison, "rtfx").high < 1


def test_every_bucket_has_its_ratio(runs):
    scopes = {
        c.scope for c in compare_runs(runs["base"], runs["slower"]).effects if c.metric.name == "latency.p50"
    }
    assert scopes == {"all", "weighted", "00-02s", "02-05s", "05-10s"}


def test_pairing_requests_narrows_the_interval(runs):
    base, slower = runs["base"], runs["slower"]
    (paired,) = [c for c in effects(base, slower, [metric("latency.p50")]) if c.scope == "all"]
    assert paired.paired
    rows = slower.samples.copy()
    rows["request_id"] = rows["request_id"] + "-of-another-set"
    (unpaired,) = [
        c for c in effects(base, replace(slower, samples=rows), [metric("latency.p50")]) if c.scope == "all"
    ]
    assert not unpaired.paired
    assert isinstance(paired.change, Estimate)
    assert isinstance(unpaired.change, Estimate)
    assert paired.change.high - paired.change.low < unpaired.change.high - unpaired.change.low


def test_a_run_compared_with_itself_changed_by_nothing(runs):
    for change in effects(runs["base"], runs["base"], [metric("latency.p95"), metric("rtfx"), metric("wer")]):
        assert isinstance(change.change, Estimate)
        expected = 0.0 if change.is_difference else 1.0
        assert (change.change.low, change.change.value, change.change.high) == (expected,) * 3


def test_another_number_of_processes_is_compared_unpaired(runs):
    pair = Pair.of(runs["base"].measured, runs["base"].measured.query("process < 3"))
    assert not pair.paired
    assert pair.processes == 3


def test_drift_that_blocks_share_cancels(tmp_path):
    def drifting(recipe):
        stored = make_run(tmp_path, recipe)
        drift = np.array([1.0, 1.3, 0.8, 1.1, 0.9])[stored.samples["process"]]
        return replace(stored, samples=stored.samples.assign(latency_s=stored.samples["latency_s"] * drift))

    a, b = drifting(Recipe("a")), drifting(Recipe("b", seed=1))
    (change,) = [c for c in effects(a, b, [metric("latency.p50")]) if c.scope == "02-05s"]
    assert isinstance(change.change, Estimate)
    assert 0.9 < change.change.low < 1 < change.change.high < 1.1


def test_a_machine_that_slows_down_between_rounds_does_not_widen_the_interval(tmp_path):
    def measured(run_id, seed, drift):
        recipe = Recipe(run_id, seed=seed, encoder_factor=1.2 if seed else 1.0, changes={"series": "s"})
        stored = make_run(tmp_path, recipe)
        speed = np.asarray(drift)[stored.samples["process"]]
        return replace(stored, samples=stored.samples.assign(latency_s=stored.samples["latency_s"] * speed))

    def change(name, drift):
        a, b = measured(f"{name}-a", 0, drift), measured(f"{name}-b", 1, drift)
        return ratio(compare_runs(a, b, [metric("latency.p50")]), "latency.p50")

    steady, drifting = change("steady", [1.0] * 5), change("drifting", [1.0, 1.1, 1.9, 2.4, 0.9])
    assert (drifting.low, drifting.value, drifting.high) == pytest.approx(
        (steady.low, steady.value, steady.high)
    )


def test_other_answers_withhold_the_speed_but_not_the_word_error_rate(runs, capsys):
    comparison = compare_runs(runs["base"], runs["forgetful"])
    assert comparison.withheld is not None
    assert {c.metric.name for c in comparison.effects} == {"wer", "failures", "memory.rss"}
    assert main([str(runs["base"].folder), str(runs["forgetful"].folder)]) == 4
    assert "speed withheld" in capsys.readouterr().out


def test_a_declared_tolerance_lets_a_difference_pass(runs):
    comparison = compare_runs(runs["base"], runs["forgetful"], tolerance=Tolerance("wer", 0.5))
    assert comparison.withheld is None


def test_a_failed_check_against_the_reference_withholds_the_speed(runs):
    bad = Parity(
        ParityStatus.UNDECIDED, "eager", Tolerance("wer", 0.01), 10, 5, "the interval straddles the limit"
    )
    slower = replace(runs["slower"], run=replace(runs["slower"].run, parity=bad))
    assert compare_runs(runs["base"], slower).withheld == bad.message


def test_failing_fast_is_not_faster(runs):
    slower = runs["slower"]
    rows = slower.samples.copy()
    rows.loc[rows["bucket"] == "05-10s", "error"] = "out of memory"
    assert "got no answer" in str(compare_runs(runs["base"], replace(slower, samples=rows)).withheld)
    again = slower.measured[slower.measured.duplicated("request_id")].index  # earlier ones succeed
    rows = slower.samples.copy()
    rows.loc[again, "error"] = "out of memory"
    assert "other requests fail in slower" in str(
        compare_runs(runs["base"], replace(slower, samples=rows)).withheld
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profiled": True}, "profiler=none"),
        (
            {"verdict": Verdict(VerdictStatus.INVALID, (Reason("ledger", "too much"),))},
            "INVALID: ledger: too much",
        ),
        ({"verdict": Verdict(VerdictStatus.INCOMPLETE)}, "INCOMPLETE"),
    ],
)
def test_runs_that_may_not_be_quoted_are_refused(runs, changes, message):
    base = runs["base"]
    with pytest.raises(InvalidMeasurementError, match=message):
        compare_runs(base, replace(base, run=replace(base.run, **changes)))


def test_another_workload_is_refused_unless_it_is_the_subject(runs):
    with pytest.raises(NotComparableError, match=r"workload\.requests: 120 / 20"):
        compare_runs(runs["base"], runs["few"])
    assert compare_runs(runs["base"], runs["few"], subjects=["workload.requests"]).withheld is None


def test_the_command_prints_ratios_and_notes(runs, capsys):
    assert main([str(runs["base"].folder), str(runs["slower"].folder), "--metric", "span.encoder.p50"]) == 0
    out = capsys.readouterr().out
    assert "span.encoder.p50" in out
    assert "worse" in out
    assert "not interleaved" in out


def test_refusals_are_one_line_on_stderr_with_their_exit_code(runs, tmp_path, capsys):
    assert main([str(runs["base"].folder), str(runs["few"].folder)]) == 6
    assert main([str(runs["base"].folder), str(tmp_path)]) == 2
    profiled = make_run(tmp_path, Recipe("profiled", processes=1, requests=10))
    write_run(profiled.folder, replace(profiled.run, profiled=True))
    assert main([str(profiled.folder), str(runs["base"].folder)]) == 4
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)


def test_help_has_examples_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "harness.compare", "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in done.stdout
    assert "exit codes:" in done.stdout
