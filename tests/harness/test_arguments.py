from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from harness.arguments import positive_integer, positive_integers, positive_seconds, result_file


def test_numbers_that_mean_something() -> None:
    assert positive_integer("3") == 3
    assert positive_integers("1,8,32") == (1, 8, 32)
    assert positive_seconds("0.5") == 0.5


@pytest.mark.parametrize("text", ["0", "-1"])
def test_a_count_below_one_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="1 or more"):
        positive_integer(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf"])
def test_a_time_that_no_clock_shows_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
        positive_seconds(text)


@pytest.mark.parametrize("text", ["", "1,,2", "1.5", "two"])
def test_what_is_no_number_is_left_to_argparse(text: str) -> None:
    with pytest.raises(ValueError):
        positive_integers(text)


def test_results_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    for name in ("new.json", "old.json"):
        assert result_file(str(tmp_path / name)) == tmp_path / name
    assert (tmp_path / "old.json").read_text() == "{}"
    assert not (tmp_path / "new.json").exists()


def test_results_that_could_not_be_written_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "none" / "x.json", "there is no folder")):
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            result_file(str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        result_file(str(tmp_path / "x.json"))
