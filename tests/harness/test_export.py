"""Figures for other programs: CSV, github-action-benchmark's JSON, and the lines of results/README.md."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import ExitCode
from harness.export import action_entries, csv_text, main, rows_of
from harness.measure.metrics import metric
from harness.measure.stats import nearest_rank
from harness.paths import conf_dir
from harness.record import Mode, read_run
from tests.harness.runs import Recipe, make_run

LINES = dict(
    re.findall(r"^    (import (\w+).*)$", (conf_dir().parent / "results/README.md").read_text(), re.MULTILINE)
)
"""Each documented line, and the package that it is for."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "results"
    for place in range(2):
        make_run(folder, Recipe(f"run-{place}", seed=place, processes=2, requests=60))
    return folder


def test_the_csv_has_every_figure_with_its_interval(results: Path, tmp_path: Path) -> None:
    assert main([str(results), "--csv", str(tmp_path / "f.csv")]) == ExitCode.DONE
    table = pd.read_csv(tmp_path / "f.csv")
    assert set(table["run_id"]) == {"run-0", "run-1"}
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    (p50,) = table.query("run_id == 'run-0' and metric == 'latency.p50' and scope == 'all'")["value"]
    assert p50 == nearest_rank(read_run(results / "run-0").measured["latency_s"], 0.5)
    assert {"all", "weighted", "00-02s"} <= set(table["scope"])
    assert set(table["unit"]) == {"s", "ratio", "share", "bytes"}


def test_a_label_with_a_comma_stays_in_its_cell(results: Path) -> None:
    stored = read_run(results / "run-0")
    rows = list(rows_of(stored, [metric("latency.p50")]))
    stored.run.config["runner"]["label"] = 'one, "two"\nthree'  # type: ignore[index]
    read = list(csv.DictReader(io.StringIO(csv_text(rows_of(stored, [metric("latency.p50")])))))
    assert len(read) == len(rows)
    assert read[0]["label"] == 'one, "two"\nthree'


def test_the_action_gets_a_file_for_each_direction(results: Path, tmp_path: Path) -> None:
    smaller, bigger = tmp_path / "smaller.json", tmp_path / "bigger.json"
    given = [str(results / "run-0"), "--smaller-is-better", str(smaller), "--bigger-is-better", str(bigger)]
    assert main(given) == ExitCode.DONE
    times, more = json.loads(smaller.read_text()), json.loads(bigger.read_text())
    assert [entry["name"] for entry in more] == ["eager · parakeet_tiny · smoke · rtfx · all"]
    p95 = next(entry for entry in times if entry["name"].endswith("smoke · latency.p95 · all"))
    assert p95["unit"] == "s"
    assert isinstance(p95["value"], float)
    assert float(p95["range"]) > 0
    assert len({entry["name"] for entry in times}) == len(times)


def test_of_several_runs_of_a_command_the_action_gets_the_newest(results: Path) -> None:
    old, new = (list(rows_of(read_run(results / name), [metric("rtfx")])) for name in ("run-0", "run-1"))
    later = [replace(row, created_utc="2026-06-01T12:00:00+00:00") for row in new]
    (entry,) = action_entries([*later, *old])
    assert entry["value"] == new[0].value


def test_of_arrivals_on_a_schedule_there_is_no_rtfx(tmp_path: Path) -> None:
    stored = make_run(tmp_path, Recipe("open", mode=Mode.OPEN, requests=30))
    assert list(rows_of(stored, [metric("rtfx")])) == []


def test_nothing_to_export_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, Recipe("profiled", requests=10, changes={"profiled": True}))
    assert main([str(tmp_path), "--csv", str(tmp_path / "f.csv")]) == ExitCode.USAGE
    assert "was profiled" in capsys.readouterr().err


def test_a_line_is_documented_for_each() -> None:
    assert sorted(LINES.values()) == ["duckdb", "pandas", "polars"]


@pytest.mark.parametrize("code", LINES)
def test_the_documented_lines_give_the_percentiles_of_the_samples(code: str, results: Path) -> None:
    if importlib.util.find_spec(LINES[code]) is None:
        pytest.skip(f"{LINES[code]} is not installed: pip install '.[dev]'")
    written = code.replace("RUN", "run-0")
    done = subprocess.run([sys.executable, "-c", written], cwd=results.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = read_run(results / "run-0").measured
    for bucket, rows in measured.groupby("bucket"):
        (line,) = [line for line in done.stdout.splitlines() if bucket in line]
        (found,) = [float(number) for number in re.findall(r"0\.\d+", line)]
        assert found == pytest.approx(nearest_rank(rows["latency_s"], 0.5), abs=1e-4)
