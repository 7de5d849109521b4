"""A candidate against the history of its command."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ExitCode
from harness.gate import main
from harness.gate_decision import CONFIDENCE, FALSE_ALARM
from harness.gate_history import predicted
from harness.record import Git
from tests.harness.runs import Recipe, make_run, provenance

RUNS = 8


def recipe(place: int, encoder_factor: float = 1.0, torch: str = "2.11.0") -> Recipe:
    origin = replace(
        provenance(), git=Git(f"{place:07d}abc", False, f"sources {place}"), packages={"torch": torch}
    )
    return Recipe(
        f"run-{place:02d}",
        seed=place,
        processes=1,
        requests=25,
        encoder_factor=encoder_factor,
        changes={"created_utc": f"2026-05-{place + 1:02d}T12:00:00+00:00", "provenance": origin},
    )


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for place in range(RUNS):
        make_run(folder, recipe(place))
    return folder


RULES = """
rules:
  - {metric: latency.p50, scope: all, limit: 0.08, required: true}
  - {metric: span.encoder.p50, scope: all, limit: 0.08, required: true}
  - {metric: rtfx, scope: all, limit: 0.08, required: true}
  - {metric: wer, scope: all, limit: 0.005, required: true}
"""


def gate(history: Path, folder: Path, candidate: Recipe) -> int:
    made = make_run(folder / "new", candidate).folder
    given = ["--against", str(history), "--candidate", str(made), "--thresholds"]
    return main([*given, str(rules_in(folder))])


def rules_in(folder: Path) -> Path:
    (folder / "rules.yaml").write_text(RULES)
    return folder / "rules.yaml"


def test_one_more_of_the_same_passes(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(history, tmp_path, recipe(20)) == ExitCode.DONE
    assert f"{RUNS} runs, run-00 to run-07" in capsys.readouterr().out.replace("\\", "")


def test_a_slower_one_is_a_regression(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(history, tmp_path, recipe(20, encoder_factor=1.4)) == ExitCode.REGRESSION
    assert "span.encoder.p50" in capsys.readouterr().out


def test_a_candidate_within_its_history_is_not_its_own_baseline(history: Path, tmp_path: Path) -> None:
    everything = tmp_path / "all"
    shutil.copytree(history, everything)
    slower = make_run(everything, recipe(20, encoder_factor=1.4))
    given = ["--against", str(everything), "--candidate", str(slower.folder), "--thresholds"]
    assert main([*given, str(rules_in(tmp_path))]) == ExitCode.REGRESSION


def test_the_level_since_the_last_step_is_the_baseline(history: Path, tmp_path: Path) -> None:
    """What was made slower on purpose, eight runs ago, is no regression of the next run."""
    longer = tmp_path / "longer"
    shutil.copytree(history, longer)
    for place in range(RUNS, 2 * RUNS):
        make_run(longer, recipe(place, encoder_factor=1.4))
    assert gate(longer, tmp_path, recipe(25, encoder_factor=1.4)) == ExitCode.DONE
    assert gate(longer, tmp_path, recipe(26, encoder_factor=2.0)) == ExitCode.REGRESSION


def test_two_runs_are_no_history(tmp_path: Path) -> None:
    short = tmp_path / "short"
    for place in range(2):
        make_run(short, recipe(place))
    assert gate(short, tmp_path, recipe(20)) == ExitCode.INCONCLUSIVE


def test_runs_on_other_ground_are_no_history(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(history, tmp_path, recipe(20, torch="3.0")) == ExitCode.NOT_COMPARABLE
    assert "--subject" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [["--against", "a"], ["--against", "a", "--baseline", "b", "--candidate", "c"]]
)
def test_sides_that_make_no_pair_are_refused(given: list[str]) -> None:
    assert main(given) == ExitCode.USAGE


@pytest.mark.parametrize("n", [3, 8, 30])
def test_one_more_run_lies_within_its_prediction(n: int) -> None:
    """As often as the interval says, and beyond it by accident no more often than the gate allows."""
    rng = np.random.default_rng(n)
    found = [predicted(rng.normal(0, 0.02, n), rng.normal(0, 0.02)) for _ in range(4000)]
    inside = np.mean([low <= 0 <= high for low, high in (f.interval(CONFIDENCE) for f in found)])
    assert abs(inside - CONFIDENCE) < 0.006
    assert np.mean([f.p_above() <= FALSE_ALARM for f in found]) < 0.016
