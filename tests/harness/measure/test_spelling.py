"""Texts are spelled as the run says before their words are compared: in its figures, and against others."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.load import compose_run
from harness.config.rules import check
from harness.errors import NotComparableError, UnavailableError
from harness.measure.spelling import normalizer, spelled
from harness.measure.summary import summarize
from harness.record import StoredRun
from harness.side_by_side import compare_runs
from tests.harness.runs import Recipe, make_run

SAID, HEARD = "i don't owe thirty five dollars", "I do not owe $35!"


def run(folder: Path, name: str, spelling: str | None, heard: str = HEARD) -> StoredRun:
    """A run that heard ``heard``; ``None``: from before there was a choice of spelling."""
    stored = make_run(folder, Recipe(name))
    runner = dict(stored.run.config["runner"])
    runner.pop("spelling", None)
    if spelling is not None:
        runner["spelling"] = spelling
    samples = stored.samples.assign(text=heard, reference_text=SAID)
    samples["token_ids"] = [[] for _ in range(len(samples))]
    config = {**stored.run.config, "runner": runner}
    return replace(stored, run=replace(stored.run, config=config), samples=samples)


def wer(stored: StoredRun) -> float | None:
    found = summarize(stored).wer
    return None if found is None else found.point


def test_numbers_and_contractions_are_no_errors_where_the_run_says_so(tmp_path: Path) -> None:
    assert wer(run(tmp_path, "a", "whisper_english")) == 0.0
    assert wer(run(tmp_path, "b", "as_is")) == wer(run(tmp_path, "c", None)) > 0.5
    assert 0.0 < wer(run(tmp_path, "d", "whisper_basic")) < 1.0


def test_what_is_missing_stays_missing(tmp_path: Path) -> None:
    stored = run(tmp_path, "a", "whisper_english")
    rows = stored.measured.assign(reference_text=None)
    assert spelled(rows, stored.run.config)["reference_text"].isna().all()


def test_outputs_of_two_runs_are_compared_as_they_are_spelled(tmp_path: Path) -> None:
    a, b = run(tmp_path, "a", "whisper_english"), run(tmp_path, "b", "whisper_english", SAID)
    assert compare_runs(a, b).parity is not None
    assert compare_runs(a, b).withheld is None
    plain = run(tmp_path, "c", "as_is"), run(tmp_path, "d", "as_is", SAID)
    assert compare_runs(*plain).withheld is not None


def test_two_spellings_are_two_grounds(tmp_path: Path) -> None:
    with pytest.raises(NotComparableError, match=r"runner\.spelling"):
        compare_runs(run(tmp_path, "a", "whisper_english"), run(tmp_path, "b", None))


def test_a_missing_package_is_named_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    normalizer.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(UnavailableError, match="pip install whisper-normalizer"):
        check(compose_run(["runner.spelling=whisper_english"]))
