"""Charts of what the benchmarks of single parts wrote, from the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExitCode, UsageError
from harness.paths import reference_dir
from harness.report.__main__ import main
from harness.report.benches import read_bench

MACHINE = reference_dir() / "nvidia-h100-80gb"


def test_encoders_are_curves_over_length_with_their_floor() -> None:
    panel = read_bench(MACHINE / "encoders.json")[0]
    assert panel.title == "Encoders, batch 1"
    assert {curve.name for curve in panel.curves} >= {"eager", "graph", "inductor", "fused"}
    assert all(set(curve.samples_s) == {1.0, 2.0, 5.0, 10.0, 30.0} for curve in panel.curves)
    assert set(panel.floor_s) == {1.0, 2.0, 5.0, 10.0, 30.0}


def test_decoders_are_curves_over_the_batch() -> None:
    (panel,) = read_bench(MACHINE / "decoders.json")
    assert panel.title == "Decoders, utterances of 10 s"
    assert {curve.name for curve in panel.curves} >= {"cpu_synced", "conditional_graph", "megakernel"}
    assert all(set(curve.samples_s) == {1, 8, 32, 128} for curve in panel.curves)


def test_what_was_withheld_has_no_point(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"length_s": 1.0, "samples_s": {"single": [0.002]}, "invalid": {"multi": "differs"}},
        {"length_s": 2.0, "samples_s": {"single": [0.002], "multi": [0.001]}, "invalid": {}},
    ]
    engine = {"tensorrt": "10.3.0", "optimization_level": 3}
    engines = {"single": engine, "multi": {**engine, "profiles_frames": [[1, 8, 8], [9, 16, 16]]}}
    file = tmp_path / "tensorrt.json"
    file.write_text(
        json.dumps({"provenance": {"gpu": "X"}, "meta": {"layers": 2}, "engines": engines, "rows": rows})
    )
    (panel,) = read_bench(file)
    assert panel.title == "TensorRT 10.3.0 at level 3, 2 layers, batch 1"
    assert panel.subtitle == "X; multi: 2 profiles"
    assert {curve.name: list(curve.samples_s) for curve in panel.curves} == {
        "single": [1.0, 2.0],
        "multi": [2.0],
    }
    assert panel.withheld == {"multi": [1.0]}


def test_transports_are_curves_over_length() -> None:
    (panel,) = read_bench(reference_dir() / "cpu-2core" / "ipc.json")
    assert [curve.name for curve in panel.curves] == ["zeromq", "uds_copy", "shared_memory"]
    assert all(set(curve.samples_s) == {1.0, 30.0, 600.0, 3600.0} for curve in panel.curves)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-h100-80gb/encoders",
        "nvidia-h100-80gb/decoders",
        "nvidia-h100-80gb/tensorrt",
        "cpu-2core/ipc",
    ],
)
def test_the_command_draws_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = reference_dir() / f"{name}.json"
    assert main([str(file), "--out", str(tmp_path / "charts")]) == ExitCode.DONE
    chart = tmp_path / "charts" / f"{file.stem}.png"
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert str(chart) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "benchmarks"),
        ("{", "JSON"),
        ('{"batches": [{}]}', "unfinished"),
        ('{"provenance": {}, "rows": []}', "nothing in it was timed"),
        ("{}", "bench"),
    ],
)
def test_another_file_is_refused_by_name(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=rf"other\.json.*{says}"):
        read_bench(file)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    command = [str(MACHINE / "decoders.json"), "--out", str(tmp_path / "taken")]
    assert main(command) == ExitCode.USAGE
    assert "choose another folder" in capsys.readouterr().err
