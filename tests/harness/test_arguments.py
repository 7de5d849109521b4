from __future__ import annotations

import argparse

import pytest

from harness.arguments import positive_integer, positive_integers, positive_seconds


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
