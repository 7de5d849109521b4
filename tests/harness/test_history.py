"""The history of runs: what belongs together, what is left out, where it changed, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExitCode
from harness.history import Point, find_runs, main, make_series, point_of
from harness.measure.metrics import metric
from harness.record import Git, Reason, StoredRun, Verdict, VerdictStatus, read_run
from tests.harness.runs import Recipe, make_run, provenance

P50, WER = metric("latency.p50"), metric("wer")
RUNS, STEP = 12, 7


def recipe(place: int, **given: Any) -> Recipe:
    """A run a day, each of its own commit; from ``STEP`` on with a slower encoder and another torch."""
    origin = replace(
        provenance(),
        git=Git(f"{place:07d}abc", False, f"sources {place}"),
        packages={"torch": "2.11.0" if place < STEP else "2.12.0"},
    )
    changes = {"created_utc": f"2026-05-{place + 1:02d}T12:00:00+00:00", "provenance": origin}
    return Recipe(
        **{
            "run_id": f"run-{place:02d}",
            "seed": place,
            "processes": 2,
            "requests": 60,
            "encoder_factor": 1.0 if place < STEP else 1.3,
            "changes": changes,
            **given,
        }
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for place in range(RUNS):
        make_run(folder, recipe(place))
    return folder


@pytest.fixture(scope="module")
def points(results: Path) -> list[Point]:
    return [point_of(read_run(folder), [P50, WER]) for folder in find_runs([results])]


def test_the_step_is_where_the_encoder_became_slower(points: list[Point]) -> None:
    (series,) = make_series(points, [P50, WER])
    latency, errors = series.courses
    assert [step.place for step in latency.steps] == [STEP]
    low, high = latency.steps[0].change.interval(0.95)
    assert 0.05 < low < high < 0.3
    assert errors.steps == ()
    assert len(latency.current) == RUNS - STEP


def test_order_is_that_of_time_whatever_order_the_runs_come_in(points: list[Point]) -> None:
    assert make_series(points[::-1], [P50]) == make_series(points, [P50])


@pytest.mark.parametrize(
    "change",
    [
        lambda run: replace(run, variant="compiled"),
        lambda run: replace(run, overrides=("encoder.options.mode=x",)),
        lambda run: replace(run, config={**run.config, "runner": {"label": "mine"}}),
        lambda run: replace(run, provenance=replace(run.provenance, cpu="another")),
    ],
)
def test_another_command_or_machine_is_another_series(change: Any, points: list[Point]) -> None:
    stranger = replace(points[0], run=change(points[0].run))
    found = make_series([*points, stranger], [P50])
    assert sorted(len(series.points) for series in found) == [1, RUNS]
    assert len({series.name for series in found}) == 2


def test_where_results_are_kept_makes_no_other_series(points: list[Point]) -> None:
    moved = replace(points[0].run, overrides=("runner.results_dir=elsewhere",))
    assert len(make_series([*points, replace(points[0], run=moved)], [P50])) == 1


def test_runs_of_a_commit_are_one_point(points: list[Point]) -> None:
    again = replace(points[3], run=replace(points[3].run, run_id="again"))
    (series,) = make_series([*points, again], [P50], by_commit=True)
    assert len(series.points) == RUNS
    assert series.points[3].figures[P50].processes == 2 * points[3].figures[P50].processes


def test_the_command_tells_the_step_and_what_else_changed(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(results), "--metric", "latency.p50", "--out", str(tmp_path)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "between run-06 (0000006) and run-07 (0000007)" in said
    assert "also changed: library.torch: 2.11.0 / 2.12.0" in said
    page = (tmp_path / "history.html").read_text()
    assert "between run-06 (0000006) and run-07 (0000007)" in page
    assert page.count("data:image/png;base64,") == 1
    assert all(f"run-{place:02d}" in page for place in range(RUNS))


def test_runs_that_may_not_be_quoted_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Verdict(VerdictStatus.INVALID, (Reason("ledger", "5 % unaccounted"),))
    make_run(tmp_path, recipe(0))
    make_run(tmp_path, recipe(1, changes={**recipe(1).changes, "verdict": wrong}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert main([str(tmp_path), "--metric", "latency.p50"]) == ExitCode.DONE
    said = capsys.readouterr()
    assert "run-01 is INVALID: ledger: 5 % unaccounted" in said.err
    assert "broken/run.json: is not JSON" in said.err
    assert "2026-05-01T12:00" in said.out
    assert "2026-05-02T12:00" not in said.out
    assert "no step" in said.out


def test_a_folder_without_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == ExitCode.USAGE
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["latency.p95", "span.encoder.p50", "rtfx", "failures", "memory.rss"])
def test_every_kind_of_metric_has_a_figure_with_its_interval(name: str, results: Path) -> None:
    stored: StoredRun = read_run(results / "run-00")
    figure = point_of(stored, [metric(name)]).figures[metric(name)]
    assert figure.low <= figure.value <= figure.high


def test_a_bucket_has_its_own_history(results: Path) -> None:
    (one, *_), (whole, *_) = (
        [point_of(read_run(folder), [P50], scope) for folder in find_runs([results / "run-00"])]
        for scope in ("00-02s", "all")
    )
    assert one.figures[P50].value < whole.figures[P50].value
