"""Runs of a sweep over loads as curves, each of what is loaded alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.record import Mode, StoredRun
from harness.report.charts import charts
from harness.report.content import entries
from harness.report.load_curve import load_curves
from tests.harness.runs import Recipe, config, make_run


def run(folder: Path, batching: str, mode: Mode = Mode.CLOSED, **workload: Any) -> StoredRun:
    name = f"{batching}-{'-'.join(map(str, workload.values()))}"
    recipe = Recipe(run_id=name, processes=1, requests=60, mode=mode)
    values = {**config(recipe), "batching": {"name": batching, "options": {}}}
    values["workload"] = {**values["workload"], **workload}
    return make_run(folder, Recipe(name, processes=1, requests=60, mode=mode, changes={"config": values}))


def test_a_curve_for_each_choice_and_a_point_for_each_load(tmp_path: Path) -> None:
    runs = [run(tmp_path, b, clients=n, requests=60 * n) for b in ("alone", "window") for n in (4, 1)]
    found = load_curves(entries(runs))
    assert [curve.label for curve in found] == ["eager · batching=alone", "eager · batching=window"]
    assert [point.load for point in found[0].points] == [1, 4]
    for point in found[0].points:  # one after the other, each as long as its latency
        mean_s = runs[0].measured["latency_s"].mean()
        assert point.answered_per_s == pytest.approx(1 / mean_s, rel=1e-6)
        assert point.p95_s is not None and point.p50.value < point.p95_s
    assert charts(entries(runs))["load.png"].startswith(b"\x89PNG")


def test_rates_of_an_open_loop_are_loads_and_its_clients_follow(tmp_path: Path) -> None:
    runs = [run(tmp_path, "alone", Mode.OPEN, rate_per_s=rate, clients=2 * rate) for rate in (2, 8)]
    (curve,) = load_curves(entries(runs))
    assert [point.load for point in curve.points] == [2, 8]


def test_runs_of_one_load_are_no_curve(tmp_path: Path) -> None:
    runs = [run(tmp_path, "alone", clients=1, seed=seed) for seed in (1, 2)]
    assert load_curves(entries(runs)) == []
    assert "load.png" not in charts(entries(runs))
