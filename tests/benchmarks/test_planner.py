"""The planner's command: a user's own lengths to profiles, a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planner import main, read_lengths_s
from harness.errors import ExitCode


def test_the_command_prints_waste_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "manifest.jsonl"
    lengths = np.random.default_rng(1).lognormal(1.1, 0.7, 300).tolist()
    manifest.write_text("\n".join(json.dumps({"audio_filepath": "x.wav", "duration": s}) for s in lengths))
    plot = tmp_path / "plan.png"
    assert main(["--manifest", str(manifest), "-k", "4", "--plot", str(plot)]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("planned, 4 profiles", "equal widths", "one profile", "wasted"))
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments", [["--longest", "0"], ["--longest", "nan"], ["-k", "0"], ["--plot", "/dev/null/plan.png"]]
)
def test_what_cannot_be_planned_or_drawn_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("1.0\n2.5\n")
    assert main(["--manifest", str(lengths), *arguments]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_takes_plain_seconds_and_a_measured_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths, curve = tmp_path / "lengths.txt", tmp_path / "curve.json"
    lengths.write_text("1.0\n2.5\n\n7\n")
    curve.write_text("[[100, 0.001], [1000, 0.004]]")
    assert read_lengths_s(lengths) == [1.0, 2.5, 7.0]
    assert main(["--manifest", str(lengths), "-k", "2", "--cost", str(curve)]) == ExitCode.DONE
    assert "profile" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"), [("1.0\nlong\n", ":2"), ('{"length": 3}', ":1"), ("-1", ":1"), ("", "no lengths")]
)
def test_a_broken_file_is_one_line_that_names_the_place(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    assert main(["--manifest", str(path)]) == ExitCode.USAGE
    assert message in capsys.readouterr().err
