"""``python -m harness.gate``: an exit code that CI can trust, and the files that explain it."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.errors import ExitCode, UsageError
from harness.gate import main, run_gate
from harness.gate_decision import CONFIDENCE, LOOKS, decide, judge_runs, looks, outcome_of
from harness.gate_result import Outcome, Rule
from harness.gate_rules import read_rules
from harness.measure.contrast import Student
from harness.measure.effects import Effect
from harness.measure.metrics import metric
from harness.measure.stats import TooSmall
from harness.paths import conf_dir
from harness.record import Memory, StoredRun, read_run, write_run
from tests.harness.runs import Recipe, make_run

DEFAULT = conf_dir() / "gate.yaml"


def drop_last_word(text: str) -> str:
    return text.rsplit(" ", 1)[0]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for recipe in (
        Recipe("base"),
        Recipe("again", seed=1),
        Recipe("slower", seed=2, encoder_factor=1.2),
        Recipe("faster", seed=3, encoder_factor=0.5),
        Recipe("forgetful", seed=4, say=drop_last_word),
        Recipe("few", seed=5, requests=8, processes=2),
        Recipe("few-again", seed=6, requests=8, processes=2),
        Recipe("incomparable", seed=7, requests=119),
    ):
        make_run(folder, recipe)
    return folder


def gate(results: Path, baseline: str, candidate: str, *options: str) -> int:
    return main(["--baseline", str(results / baseline), "--candidate", str(results / candidate), *options])


def test_two_runs_of_the_same_thing_are_the_same(results, capsys):
    assert gate(results, "base", "again") == 0
    assert "same: no regression" in capsys.readouterr().out


def test_a_fifth_more_encoder_time_is_a_regression(results, capsys):
    assert gate(results, "base", "slower") == 5
    out = capsys.readouterr().out
    assert "regression in" in out
    assert "span.encoder.p50 (all)" in out


def test_an_improvement_passes_and_says_so(results, capsys):
    assert gate(results, "base", "faster") == 0
    assert "improved in latency.p50 (all)" in capsys.readouterr().out


def test_too_few_requests_prove_nothing(results, capsys):
    assert gate(results, "few", "few-again") == 7
    assert "measure more requests" in capsys.readouterr().out


def test_another_workload_is_not_comparable(results, capsys):
    assert gate(results, "base", "incomparable") == 6
    assert "workload.requests" in capsys.readouterr().err


def test_an_invalid_run_is_refused(results, tmp_path, capsys):
    stored = make_run(tmp_path, Recipe("profiled"))
    write_run(stored.folder, replace(stored.run, profiled=True))
    assert main(["--baseline", str(results / "base"), "--candidate", str(stored.folder)]) == 4
    assert "profiler=none" in capsys.readouterr().err


def test_a_decoder_that_drops_the_last_word_cannot_buy_speed_with_it(results, tmp_path, capsys):
    assert gate(results, "base", "forgetful") == 5
    out = capsys.readouterr().out
    assert "regression in wer (all); speed withheld" in out
    speed_only = tmp_path / "speed.yaml"
    speed_only.write_text("rules:\n  - {metric: latency.p50, limit: 0.5}\n")
    assert gate(results, "base", "forgetful", "--thresholds", str(speed_only)) == 4


def test_no_regression_is_found_among_many_identical_pairs(tmp_path):
    rules = read_rules(DEFAULT)
    codes = []
    for seed in range(6):
        a = make_run(tmp_path, Recipe(f"a{seed}", seed=seed, requests=60))
        b = make_run(tmp_path, Recipe(f"b{seed}", seed=100 + seed, requests=60))
        codes.append(run_gate(a.folder, b.folder, rules).exit_code)
    assert ExitCode.REGRESSION not in codes


def effect(name: str, ratio: float, half_width: float) -> Effect:
    """``ratio`` of B to A; the interval that decides reaches ``half_width`` to either side, in logarithms."""
    freedom = 7.0
    _, reach = Student(0.0, 1.0, freedom).interval(CONFIDENCE)
    return Effect(
        metric(name), "all", 1.0, 1.0, Student(math.log(ratio), half_width / reach, freedom), 480, 8
    )


@pytest.mark.parametrize(
    ("ratio", "half_width", "outcome"),
    [
        (1.20, 0.02, Outcome.REGRESSION),
        (1.06, 0.02, Outcome.REGRESSION),
        (1.05, 0.01, Outcome.REGRESSION),
        (1.03, 0.01, Outcome.SAME),
        (1.00, 0.03, Outcome.SAME),
        (0.85, 0.05, Outcome.IMPROVED),
        (1.03, 0.03, Outcome.INCONCLUSIVE),
        (1.20, 0.50, Outcome.INCONCLUSIVE),
        (1.00, 0.06, Outcome.INCONCLUSIVE),
    ],
)
def test_a_statement_has_to_be_refuted(ratio, half_width, outcome):
    """ "No worse" by p, "worse by the limit" by the interval."""
    change = effect("latency.p50", ratio, half_width)
    assert outcome_of(change, 0.05, LOOKS * change.p_worse) is outcome


def test_more_throughput_is_less_cost():
    less, more = effect("rtfx", 0.8, 0.02), effect("rtfx", 1.3, 0.02)
    assert outcome_of(less, 0.05, less.p_worse) is Outcome.REGRESSION
    assert outcome_of(more, 0.05, more.p_worse) is Outcome.IMPROVED


def test_a_small_sample_is_inconclusive():
    small = Effect(metric("latency.p95"), "all", None, None, TooSmall(10, 59), 10, 5)
    assert small.p_worse == 1.0
    assert outcome_of(small, 0.05, small.p_worse) is Outcome.INCONCLUSIVE


def test_looks_come_at_doublings_and_are_few():
    assert looks(32) == (4, 8, 16, 32)
    assert looks(8) == (4, 8)
    assert looks(12) == (3, 6, 12)
    assert looks(2) == (2,)
    assert all(len(looks(rounds)) <= LOOKS and looks(rounds)[-1] == rounds for rounds in range(1, 200))


@pytest.mark.parametrize("processes", [1, 2])
def test_one_process_or_two_prove_nothing(tmp_path, processes):
    a = make_run(tmp_path, Recipe("a", processes=processes, requests=180))
    b = make_run(tmp_path, Recipe("b", processes=processes, requests=180, encoder_factor=1.5, seed=1))
    result = run_gate(a.folder, b.folder, read_rules(DEFAULT))
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert {j.outcome for j in result.judgements if j.effect and j.rule.metric.is_speed} == {
        Outcome.INCONCLUSIVE
    }


def test_one_reading_of_memory_is_no_regression(tmp_path):
    """It has no width: how far readings usually lie apart is not known."""
    rules = [Rule(metric("memory.rss"), "all", 0.1)]

    def outcome(processes):
        a = make_run(tmp_path, Recipe(f"a{processes}", processes=processes, requests=5))
        grown = [replace(p, memory=Memory(rss_bytes=2 * (900 + p.index) * 2**20)) for p in a.run.processes]
        b = replace(a, run=replace(a.run, processes=tuple(grown)))
        return judge_runs(a, b, rules).exit_code

    assert outcome(1) is ExitCode.INCONCLUSIVE
    assert outcome(2) is ExitCode.INCONCLUSIVE
    assert outcome(5) is ExitCode.REGRESSION


def test_a_candidate_that_fails_most_requests_never_passes(results):
    """It is fast: a failed request takes no time. Every recording is answered now and then."""
    base = read_run(results / "base")
    failing = failed_at_random(read_run(results / "faster"), 0.8)
    some = failed_at_random(base, 0.025)
    for rules in (read_rules(DEFAULT), [Rule(metric("latency.p50"), "all", 0.05)]):
        assert judge_runs(some, failing, rules).exit_code in (ExitCode.REGRESSION, ExitCode.INVALID)
    result = judge_runs(some, failing, read_rules(DEFAULT))
    assert "regression in failures (all)" in result.reason
    assert "other requests fail" in result.reason


def test_as_many_failures_on_both_sides_are_no_reason_to_withhold(results):
    base, again = (failed_at_random(read_run(results / name), 0.02) for name in ("base", "again"))
    result = judge_runs(base, again, read_rules(DEFAULT))
    assert result.exit_code is ExitCode.DONE
    assert result.comparison is not None
    assert result.comparison.withheld is None


def test_one_recording_that_fails_otherwise_is_found_among_all(results):
    """Six failures in six hundred requests say little; six of the seven of one recording do."""
    base = read_run(results / "base")
    counts = base.measured["request_id"].value_counts()
    broken = counts.index[counts == 7][0]
    rows = base.samples.copy()
    rows.loc[base.measured.query("request_id == @broken").index[1:], "error"] = "broken"
    result = judge_runs(base, replace(base, samples=rows), read_rules(DEFAULT))
    assert result.exit_code is ExitCode.INVALID
    assert f"{broken} fails otherwise" in result.reason


def failed_at_random(stored: StoredRun, share: float) -> StoredRun:
    """Failures among repetitions, so that every recording is answered once at least."""
    rows, measured = stored.samples.copy(), stored.measured
    repeated = measured.index[measured.duplicated("request_id")]
    rows.loc[repeated[np.random.default_rng(0).random(len(repeated)) < share], "error"] = "out of memory"
    return replace(stored, samples=rows)


@pytest.mark.parametrize("length", [0.0, float("nan")])
def test_recordings_of_no_or_unknown_length_are_judged_by_their_latency(results, length):
    def unknown(name: str) -> StoredRun:
        stored = read_run(results / name)
        rows = stored.samples.assign(audio_s=length, rtf=float("nan"), bucket="unknown")
        return replace(stored, samples=rows)

    result = judge_runs(unknown("base"), unknown("again"), read_rules(DEFAULT))
    assert result.exit_code is ExitCode.DONE
    measured = {j.rule.metric.name for j in result.judgements if j.effect is not None}
    assert "latency.p50" in measured
    assert "rtfx" not in measured


def test_only_required_rules_need_an_answer(results):
    rules = [
        Rule(metric("latency.p99"), "all", 0.1, required=False),
        Rule(metric("memory.gpu"), "all", 0.1, False),
    ]
    assert run_gate(results / "few", results / "few-again", rules).exit_code is ExitCode.DONE
    rules.append(Rule(metric("memory.gpu"), "all", 0.1, required=True))
    result = run_gate(results / "few", results / "few-again", rules)
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert "memory.gpu" in result.reason


def test_withheld_speed_is_invalid():
    assert decide((), "other tokens")[0] is ExitCode.INVALID


@pytest.mark.parametrize(
    ("baseline", "candidate", "code"),
    [
        ("base", "again", 0),
        ("base", "slower", 5),
        ("base", "incomparable", 6),
        ("few", "few-again", 7),
        ("base", "no", 2),
    ],
)
def test_the_files_are_there_whatever_the_decision(results, tmp_path, baseline, candidate, code):
    markdown, junit = tmp_path / "gate.md", tmp_path / "gate.xml"
    assert gate(results, baseline, candidate, "--markdown", str(markdown), "--junit", str(junit)) == code
    assert f"exit code {code}" in markdown.read_text()
    suite = ElementTree.parse(junit).getroot()
    problems = suite.findall("testcase/failure") + suite.findall("testcase/error")
    assert bool(problems) is (code != 0)
    assert int(suite.get("tests", "0")) == len(suite.findall("testcase"))


def test_foreign_text_is_no_markup(results, tmp_path):
    name = "\x1b[31mbase\u202e <img src=x onerror=alert(1)> `a|b` [x](http://x)\n# VALID"
    shutil.copytree(results / "base", tmp_path / name)
    files = tmp_path / "gate.md", tmp_path / "gate.xml"
    options = ["--markdown", str(files[0]), "--junit", str(files[1])]
    assert main(["--baseline", str(tmp_path / "no\x1b]0;\x07" / name), "--candidate", "x", *options]) == 2
    assert main(["--baseline", str(tmp_path / name), "--candidate", str(results / "few"), *options]) in (6, 7)
    page = files[0].read_text()
    assert "\x1b" not in page
    assert "\n# VALID" not in page
    assert not re.search(r"(?<!\\)[<`]", page.partition("| metric")[0])
    ElementTree.parse(files[1])


def test_regressions_are_failed_test_cases(results, tmp_path):
    junit = tmp_path / "gate.xml"
    gate(results, "base", "slower", "--junit", str(junit))
    failed = [
        case.get("name")
        for case in ElementTree.parse(junit).findall("testcase")
        if case.find("failure") is not None
    ]
    assert "span.encoder.p50 [all]" in failed
    assert "span.decoder.p50 [all]" not in failed


def test_the_shipped_thresholds_are_read():
    rules = read_rules(DEFAULT)
    assert {rule.metric.name for rule in rules} >= {"latency.p50", "latency.p95", "wer", "memory.rss"}
    assert any(rule.scope == "buckets" for rule in rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "needs a list 'rules'"),
        ("nothing", "needs a list 'rules'"),
        ("rules: [{metric: latency.p50}]", r"rules\[0\]: needs 'metric' and 'limit'"),
        ("rules: [{metric: speed, limit: 0.1}]", r"rules\[0\]\.metric: unknown metric 'speed'"),
        ("rules: [{metric: wer, limit: much}]", r"rules\[0\]\.limit: 'much' has the wrong type"),
        ("rules: [{metric: wer, limit: -1}]", "negative"),
        ("rules: [{metric: wer, limit: 0.1, colour: red}]", "unknown key 'colour'"),
        ("rules: [wer]", "expected a mapping"),
        ("rules: [", "is not YAML"),
        ("rules: [{metric: wer, limit: .nan}]", r"rules\[0\]\.limit: nan is no limit"),
        ("rules: [{metric: wer, limit: .inf}]", r"rules\[0\]\.limit: inf is no limit"),
        ("rules: [{metric: wer, limit: true}]", "wrong type"),
        ("rules: [{metric: wer, limit: 0.1, scope: bukets}]", r"rules\[0\]\.scope: 'bukets' is no scope"),
        ("rules: [{metric: wer, limit: 0.1}]\nrule: []", "unknown key 'rule'"),
    ],
)
def test_a_wrong_threshold_file_is_answered_with_file_and_key(tmp_path, text, message):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_rules(path)
    assert "limits.yaml" in str(raised.value)


def test_thresholds_in_another_encoding_are_refused_by_byte(tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_bytes("# für\nrules:\n  - {metric: latency.p50, limit: 0.05}\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"limits\.yaml: byte 4 is not UTF-8"):
        read_rules(path)


def test_a_missing_threshold_file_is_named(results, capsys):
    assert gate(results, "base", "again", "--thresholds", "nowhere.yaml") == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_reading_the_runs_changes_nothing(results):
    before = read_run(results / "base").run
    run_gate(results / "base", results / "again", read_rules(DEFAULT))
    assert read_run(results / "base").run == before
