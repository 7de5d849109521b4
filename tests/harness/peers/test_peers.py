"""``python -m harness.peers``: who is measured, who is not and why, and what may be told of each."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config.load import compose_run
from harness.config.needs import Machine
from harness.errors import ExitCode, UnavailableError, UsageError
from harness.peers.__main__ import main
from harness.peers.lineup import Engine, Lineup, lineups, read_lineup
from harness.peers.standing import measure, standings
from harness.record import Mode, ProcessRecord, StoredRun, read_run
from tests.harness.machines import Laptop
from tests.harness.runs import Recipe, make_run, provenance

START_UP = {"import_cpu_s": 1.0, "build_s": 2.0, "warm_up_s": 0.5, "total_s": 3.5}
TINY = ("frontend=whole", "dataset.items=2", "workload.requests=3", "runner.warmup.max_passes=1")
FIXED = Engine("ours", "fixed_cost")


def run_of(folder: Path, model: str, **how: Any) -> StoredRun:
    """A made-up run of an engine, which says what its start took and, as peers do, its packages."""
    origin = provenance()
    details = {"packages": {"onnx-asr": "0.12.0"}} if model == "onnx_asr" else {}
    changes = {"provenance": replace(origin, model=replace(origin.model, name=model, details=details))}
    stored = make_run(folder, Recipe(model, variant="eager", changes=changes, **how))
    document = json.loads((stored.folder / "run.json").read_text())
    document["config"]["model"] |= {"name": model, "device": "cpu"}
    for process in document["processes"]:
        process["evidence"] = {"startup": START_UP}
    (stored.folder / "run.json").write_text(json.dumps(document))
    assert isinstance(read_run(stored.folder).run.processes[0], ProcessRecord)
    return stored


@pytest.fixture(scope="module")
def tabled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, a faster engine with the same words, one that hears others, and one that was not measured."""
    folder = tmp_path_factory.mktemp("peers")
    runs = [
        run_of(folder, "parakeet_tiny"),
        run_of(folder, "onnx_asr", seed=1, encoder_factor=0.5),
        run_of(folder, "sherpa_onnx", seed=2, encoder_factor=0.1, say=lambda text: text.replace("the", "a")),
    ]
    folders = [str(stored.folder) for stored in runs]
    assert main(["--runs", *folders, "--out", str(folder / "out")]) == ExitCode.DONE
    return folder / "out"


def test_the_table_tells_every_figure_of_those_whose_words_are_ours(tabled: Path) -> None:
    lines = (tabled / "peers.md").read_text().splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if line.startswith("| ")}
    header, onnx = cells["engine"], cells["onnx-asr"]
    assert [name.strip("| ") for name in header[:4]] == ["engine", "p50", "p95", "p50 / ours"]
    ratio = float(onnx[3].split()[0])
    assert 0.4 < ratio < 0.9
    assert onnx[6] == "3.50 [3.50, 3.50] s"
    assert (onnx[8], onnx[9]) == ("0, the same words", "onnx-asr 0.12.0 |")


def test_speed_is_withheld_where_the_words_are_others_and_the_rest_told(tabled: Path) -> None:
    page = (tabled / "peers.md").read_text()
    (row,) = (line.split(" | ") for line in page.splitlines() if line.startswith("| sherpa-onnx"))
    assert row[1:5] == ["withheld"] * 4
    assert row[5].endswith("GiB")
    assert row[8].startswith("+")
    assert "- sherpa-onnx: output different: WER differs from ours by" in page


def test_an_engine_without_a_run_is_in_the_table_with_the_reason(tabled: Path) -> None:
    page = (tabled / "peers.md").read_text()
    assert "| NeMo | – | – |" in page
    assert "- NeMo: no run of it is among these" in page


def test_the_csv_has_a_row_an_engine_in_base_units_and_hides_what_is_withheld(tabled: Path) -> None:
    rows = {row["model"]: row for row in csv.DictReader((tabled / "peers.csv").open())}
    assert list(rows) == ["parakeet_tiny", "nemo_transcribe", "onnx_asr", "sherpa_onnx"]
    ours, onnx = rows["parakeet_tiny"], rows["onnx_asr"]
    assert 0.001 < float(ours["latency_p50_s_low"]) <= float(ours["latency_p50_s"]) < 1.0
    assert float(ours["memory_bytes"]) == 904 * 2**20
    assert float(onnx["start_up_build_s"]) == 2.0
    assert (rows["sherpa_onnx"]["latency_p50_s"], rows["sherpa_onnx"]["rtfx"]) == ("", "")
    assert float(rows["sherpa_onnx"]["wer"]) > float(ours["wer"]) == 0.0
    assert rows["nemo_transcribe"]["requests"] == "0"


def test_the_chart_is_drawn(tabled: Path) -> None:
    assert (tabled / "peers.png").read_bytes().startswith(b"\x89PNG")
    assert "(peers.png)" in (tabled / "peers.md").read_text()


def test_runs_that_cannot_stand_in_one_table_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, again = (run_of(tmp_path / name, "parakeet_tiny") for name in "ab")
    stranger = run_of(tmp_path, "fixed_cost")
    elsewhere = run_of(tmp_path, "onnx_asr", mode=Mode.OPEN)
    for other, code, says in (
        (again, ExitCode.USAGE, "is of model=parakeet_tiny too"),
        (stranger, ExitCode.USAGE, "model=fixed_cost is none of parakeet_tiny, nemo_transcribe"),
        (elsewhere, ExitCode.NOT_COMPARABLE, "workload.mode"),
    ):
        runs = [str(ours.folder), str(other.folder)]
        assert main(["--out", str(tmp_path / "out"), "--runs", *runs]) == code
        assert says in capsys.readouterr().err


# ---------------------------------------------------------------- line-ups


@pytest.mark.parametrize("name", lineups())
def test_every_engine_of_every_line_up_composes(name: str) -> None:
    lineup = read_lineup(name)
    for engine in lineup.engines:
        config = compose_run(lineup.overrides(engine, ["model.weights=/weights"], quick=True))
        assert (config.model.name, config.runner.label) == (engine.model, engine.model)


def test_what_is_given_last_stands() -> None:
    lineup = Lineup("a", (FIXED,), common=("dataset=smoke", "a=1"), quick=("a=2",))
    own = ["model=fixed_cost", "runner.label=fixed_cost"]
    assert lineup.overrides(FIXED, ["dataset=commands"], quick=True) == ["dataset=commands", "a=2", *own]
    assert lineup.overrides(FIXED) == ["dataset=smoke", "a=1", *own]


def test_some_engines_are_chosen_and_ours_always() -> None:
    chosen = read_lineup("parakeet_tiny").only("sherpa_onnx")
    assert [engine.model for engine in chosen.engines] == ["parakeet_tiny", "sherpa_onnx"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--of", "everything"], "there are parakeet_tiny, whisper_tiny_en"),
        (["--models", "kaldi"], "there are parakeet_tiny, nemo_transcribe"),
        (["--of", "whisper_tiny_en"], "give model.weights=FOLDER"),
        (["dataset=nothing"], "dataset"),
    ],
)
def test_a_mistake_is_named(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == ExitCode.USAGE
    assert says in capsys.readouterr().err


# ---------------------------------------------------------------- measuring


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def places(tmp_path: Path, cache: Path) -> list[str]:
    return [*TINY, f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={cache}"]


def test_what_is_not_installed_and_what_fails_costs_the_others_nothing(places: list[str]) -> None:
    """The Whisper peer is installed and fails, because it is given no weights."""
    pytest.importorskip("whisper", reason="needs the extra whisper")
    lineup = Lineup("engines", (FIXED, Engine("failing", "openai_whisper"), Engine("absent", "sherpa_onnx")))
    machine = Machine()
    machine.has_package = lambda name: name != "sherpa_onnx"  # type: ignore[method-assign]
    outcome = measure(lineup, 1, places, quick=False, machine=machine)
    ours, failing, absent = standings(lineup, outcome)
    assert ours.stored is not None
    assert len(ours.stored.run.processes) == 1
    assert "needs real weights" in str(failing.reason)
    assert "'sherpa-onnx' is not installed" in str(absent.reason)
    assert [error.exit_code for error in outcome.errors] == [ExitCode.USAGE]


def test_an_engine_that_is_left_alone_is_measured_in_as_many_processes(places: list[str]) -> None:
    lineup = Lineup("engines", (FIXED, Engine("absent", "sherpa_onnx")))
    outcome = measure(lineup, 2, places, quick=False, machine=Laptop())
    (stored,) = outcome.runs.values()
    assert len(stored.run.processes) == 2


def test_where_none_can_run_each_says_why(places: list[str]) -> None:
    lineup = Lineup("engines", (Engine("one", "onnx_asr"), Engine("other", "sherpa_onnx")))
    with pytest.raises(UnavailableError, match=r"onnx-asr.*sherpa-onnx"):
        measure(lineup, 1, places, quick=False, machine=Laptop())
    with pytest.raises(UsageError, match="nowhere"):
        measure(lineup, 1, ["nowhere=1"], quick=False)


@pytest.mark.slow
def test_the_engines_that_are_installed_are_measured_side_by_side(tmp_path: Path) -> None:
    """Real engines, a round."""
    out = tmp_path / "out"
    places = [f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}"]
    assert main(["--quick", "--out", str(out), *places]) == ExitCode.DONE
    rows = {row["model"]: row for row in csv.DictReader((out / "peers.csv").open())}
    measured = [row for row in rows.values() if row["run"]]
    assert rows["parakeet_tiny"] in measured
    assert rows["nemo_transcribe"] in measured
    assert all(float(row["start_up_total_s"]) > 0 and row["versions"] for row in measured)
    assert all(float(row["wer"]) < 0.2 for row in measured)
