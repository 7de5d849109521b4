from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import InvalidMeasurementError, UsageError
from harness.publish import publish, without_local_paths
from harness.record import read_run, write_run
from tests.harness.runs import Recipe, make_run


def test_figures_stay_and_paths_go(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", Recipe()).folder
    stored = read_run(folder)
    command = (
        "python",
        "-m",
        "harness",
        f"runner.results_dir={tmp_path}",
        "dataset.manifest=/data/mine/calls.jsonl",
        "--out",
        str(tmp_path / "mine"),
        f"model=whisper_base model.weights={tmp_path}/base",
    )
    config = {**stored.run.config, "runner": {"results_dir": str(tmp_path), "cache_dir": "/var/cache"}}
    model = replace(stored.run.provenance.model, weights=str(tmp_path / "tiny.en"))
    origin = replace(stored.run.provenance, command=command, model=model)
    write_run(folder, replace(stored.run, provenance=origin, config=config))

    [copy] = publish([folder], tmp_path / "reference")

    kept = read_run(copy)
    assert kept.samples.equals(stored.samples)
    assert kept.run.summary == stored.run.summary
    assert kept.run.provenance.command == (
        "python", "-m", "harness", "runner.results_dir=results", "dataset.manifest=calls.jsonl",
        "--out", "mine", "model=whisper_base model.weights=base",
    )  # fmt: skip
    assert kept.run.provenance.model.weights == "tiny.en"
    assert str(tmp_path) not in (copy / "run.json").read_text()


def test_what_may_not_be_quoted_is_not_published(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", Recipe()).folder
    write_run(folder, replace(read_run(folder).run, profiled=True))
    with pytest.raises(InvalidMeasurementError, match="profiled"):
        publish([folder], tmp_path / "reference")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", Recipe()).folder
    publish([folder], tmp_path / "reference")
    with pytest.raises(UsageError, match="already"):
        publish([folder], tmp_path / "reference")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", Recipe()).folder
    (folder / "samples.parquet").rename(tmp_path / "elsewhere.parquet")
    (folder / "samples.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(UsageError, match=r"samples\.parquet: is a link"):
        publish([folder], tmp_path / "reference")
    (folder / "samples.parquet").unlink()
    (tmp_path / "elsewhere.parquet").rename(folder / "samples.parquet")
    (folder / "chunks-0.parquet").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"chunks-0\.parquet: is a link"):
        publish([folder], tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", Recipe()).folder
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "eager").symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="already holds"):
        publish([folder], tmp_path / "reference")
    assert not (tmp_path / "outside").exists()


def labelled(results: Path, label: str) -> Path:
    folder = make_run(results, Recipe()).folder
    run = read_run(folder).run
    write_run(folder, replace(run, config={**run.config, "runner": {"label": label}}))
    return folder


def test_runs_of_one_variant_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    folders = [labelled(tmp_path / str(i), label) for i, label in enumerate(("", "graph", "../my run"))]
    copies = publish(folders, tmp_path / "reference")
    assert [copy.name for copy in copies] == ["eager", "eager-graph", "eager----my-run"]
    assert {copy.parent for copy in copies} == {tmp_path / "reference"}


def test_one_name_for_two_runs_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    folders = [labelled(tmp_path / side, "graph") for side in ("a", "b")]
    with pytest.raises(UsageError, match=r"eager-graph.*runner\.label"):
        publish(folders, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_names_that_are_no_paths_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path, Recipe()).run
    assert without_local_paths(
        replace(run, overrides=("model=a_b", "model.weights=/x/y.nemo"))
    ).overrides == (
        "model=a_b",
        "model.weights=y.nemo",
    )
