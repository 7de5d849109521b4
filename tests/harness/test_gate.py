"""``python -m harness.gate``: an exit code that CI can trust, and the files that explain it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.errors import ExitCode, UsageError
from harness.gate import decide, main, outcome_of, read_rules, run_gate
from harness.gate_result import Outcome, Rule
from harness.measure.change import Change
from harness.measure.metrics import metric
from harness.measure.stats import Estimate, TooSmall
from harness.paths import conf_dir
from harness.record import read_run, write_run
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


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.06, 1.20, Outcome.REGRESSION),
        (1.02, 1.04, Outcome.SAME),
        (0.97, 1.03, Outcome.SAME),
        (0.80, 0.90, Outcome.IMPROVED),
        (0.99, 1.06, Outcome.INCONCLUSIVE),
        (0.50, 3.00, Outcome.INCONCLUSIVE),
    ],
)
def test_where_the_interval_lies_decides(low, high, outcome):
    change = Change(metric("latency.p50"), "all", 1.0, 1.0, Estimate((low + high) / 2, low, high, 100, 5))
    assert outcome_of(change, 0.05) is outcome


def test_more_throughput_is_less_cost():
    change = Change(metric("rtfx"), "all", 100, 80, Estimate(0.8, 0.78, 0.82, 100, 5))
    assert outcome_of(change, 0.05) is Outcome.REGRESSION
    assert outcome_of(replace(change, change=Estimate(1.3, 1.2, 1.4, 100, 5)), 0.05) is Outcome.IMPROVED


def test_a_small_sample_is_inconclusive():
    change = Change(metric("latency.p95"), "all", None, None, TooSmall(10, 59))
    assert outcome_of(change, 0.05) is Outcome.INCONCLUSIVE


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
    ],
)
def test_a_wrong_threshold_file_is_answered_with_file_and_key(tmp_path, text, message):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_rules(path)
    assert "limits.yaml" in str(raised.value)


def test_a_missing_threshold_file_is_named(results, capsys):
    assert gate(results, "base", "again", "--thresholds", "nowhere.yaml") == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_reading_the_runs_changes_nothing(results):
    before = read_run(results / "base").run
    run_gate(results / "base", results / "again", read_rules(DEFAULT))
    assert read_run(results / "base").run == before
