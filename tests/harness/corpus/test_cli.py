"""``python -m harness.corpus``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from harness.corpus.__main__ import main
from harness.corpus.manifest import read_rows
from harness.corpus.plots import plot_distribution
from harness.errors import ExitCode, UsageError

from .conftest import WriteSpec
from .test_manifest import load, write


def test_list_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert any(line.startswith("smoke") and "12 recordings" in line for line in lines)


def test_render_prints_where_the_manifest_is(
    write_spec: WriteSpec, specs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spec()
    arguments = ["tiny", "--specs-dir", str(specs_dir), "--cache-dir", str(tmp_path / "cache")]
    assert main(["render", *arguments, "--items", "2"]) == ExitCode.DONE
    manifest = Path(capsys.readouterr().out.split("manifest", 1)[1].strip())
    assert len(read_rows(manifest)) == 2


def test_plot_writes_a_picture(write_spec: WriteSpec, specs_dir: Path, tmp_path: Path) -> None:
    write_spec()
    output = tmp_path / "plots" / "tiny.png"
    arguments = ["tiny", "--specs-dir", str(specs_dir), "--cache-dir", str(tmp_path / "cache")]
    assert main(["plot", *arguments, "--output", str(output)]) == ExitCode.DONE
    height, width, _ = matplotlib.image.imread(output).shape
    assert (width, height) > (800, 400)


def test_errors_are_one_line_and_the_exit_code_of_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "smokey", "--cache-dir", str(tmp_path)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_set_without_a_known_length_cannot_be_drawn(tmp_path: Path) -> None:
    unknown = load(write(tmp_path, {"audio_filepath": "missing.wav"}))
    with pytest.raises(UsageError, match="known length"):
        plot_distribution(unknown, tmp_path / "plot.png")
