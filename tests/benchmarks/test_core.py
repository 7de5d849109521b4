"""What every benchmark does alike: turns, agreement before time, samples on disk, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.core import Results, Sample, Trial, measure, turn
from harness.errors import ExitCode, HarnessError, InvalidMeasurementError, UnavailableError
from harness.report.benches import read_bench


@dataclass
class Counted:
    """A contender whose n-th call takes n milliseconds, by its own count."""

    name: str
    calls: list[str]
    wrong: bool = False
    not_engaged: str | None = None
    taken: int = field(default=0)

    def agree(self) -> Mapping[str, Any]:
        if self.wrong:
            raise InvalidMeasurementError(f"{self.name} differs")
        return {"cosine": 1.0}

    def run(self) -> Sample:
        self.calls.append(self.name)
        self.taken += 1
        return {"call_s": self.taken * 1e-3, "bytes": 7.0}

    def evidence(self) -> Mapping[str, Any]:
        return {"not_engaged": self.not_engaged}


def trial(*contenders: Counted, size: float = 1.0, process: int = 0, **more: Any) -> Trial:
    return Trial("Parts", "size", size, {c.name: c for c in contenders}, process=process, **more)


def measured(path: Path, *trials: Trial, rounds: int = 6) -> tuple[ExitCode, dict[str, Any]]:
    code = measure(iter(trials), rounds, Results(path, {"gpu": None}))
    return code, json.loads(path.read_text())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_nobody_comes_more_often_first_or_last(count: int) -> None:
    names = [f"n{i}" for i in range(count)]
    orders = [turn(names, index) for index in range(2 * count)]
    for place in range(count):
        assert set(Counter(order[place] for order in orders).values()) == {2}


def test_samples_are_kept_and_summarized_by_nearest_rank(tmp_path: Path) -> None:
    calls: list[str] = []
    code, found = measured(tmp_path / "times.json", trial(Counted("a", calls), Counted("b", calls)))
    assert code is ExitCode.DONE
    assert Counter(calls) == {"a": 8, "b": 8}  # two rounds of warm-up
    (row,) = found["trials"]
    assert row["contenders"]["a"]["samples"]["call_s"] == pytest.approx(
        [0.003, 0.004, 0.005, 0.006, 0.007, 0.008]
    )
    assert row["contenders"]["a"]["samples"]["bytes"] == [7.0] * 6
    assert row["contenders"]["a"]["figures"]["call_s"]["p50"]["value"] == pytest.approx(0.005)
    assert row["contenders"]["a"]["figures"]["call_s"]["p95"] == {"n": 6, "needed": 59}


def test_what_differs_is_never_timed_and_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    wrong = Counted("wrong", calls, wrong=True)
    code, found = measured(tmp_path / "times.json", trial(Counted("right", calls), wrong))
    assert code is ExitCode.INVALID
    assert set(calls) == {"right"}
    assert found["trials"][0]["withheld"] == {"wrong": "wrong differs"}
    assert set(found["trials"][0]["contenders"]) == {"right"}
    assert "withheld: wrong differs" in capsys.readouterr().out
    (panel,) = read_bench(tmp_path / "times.json")
    assert panel.withheld == {"wrong": [1.0]}


def test_what_did_not_engage_keeps_no_time(tmp_path: Path) -> None:
    idle = Counted("idle", [], not_engaged="ran eagerly")
    code, found = measured(tmp_path / "times.json", trial(idle, Counted("busy", [])))
    assert code is ExitCode.INVALID
    assert found["trials"][0]["withheld"] == {"idle": "did not engage: ran eagerly"}
    assert set(found["trials"][0]["contenders"]) == {"busy"}


def test_one_size_in_several_processes_is_one_row(tmp_path: Path) -> None:
    parts = [trial(Counted("a", []), process=process) for process in range(3)]
    _, found = measured(tmp_path / "times.json", *parts)
    (row,) = found["trials"]
    assert row["contenders"]["a"]["process"] == [0] * 6 + [1] * 6 + [2] * 6
    assert row["contenders"]["a"]["figures"]["call_s"]["p50"]["processes"] == 3


def test_an_interruption_keeps_the_sizes_before_it(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Trial]:
        yield trial(Counted("a", []))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(interrupted(), 2, Results(tmp_path / "times.json", {}))
    assert len(json.loads((tmp_path / "times.json").read_text())["trials"]) == 1


def test_what_could_not_be_built_is_named_and_the_others_are_timed(tmp_path: Path) -> None:
    missing = {"broken": HarnessError("no kernel found"), "absent": UnavailableError("no GPU")}
    code, found = measured(tmp_path / "times.json", trial(Counted("a", []), missing=missing))
    assert code is ExitCode.INVALID
    (row,) = found["trials"]
    assert (row["withheld"], row["unavailable"]) == ({"broken": "no kernel found"}, {"absent": "no GPU"})
    assert set(row["contenders"]) == {"a"}


def test_nothing_to_time_is_unavailable_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no GPU"):
        measured(tmp_path / "times.json", trial(missing={"graph": UnavailableError("no GPU")}))


def test_core_and_engines_alone_need_neither_torch_nor_pandas() -> None:
    """As in an interpreter that holds TensorRT, NumPy and cuda-bindings."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "nemo", "pandas", "pyarrow", "scipy", "matplotlib", "pynvml"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import benchmarks.tensorrt, benchmarks.core as core
from benchmarks.provenance import bench_provenance
assert core.percentiles([1.0] * 9, [0] * 9, (0.5,))[0].value == 1.0
print(bench_provenance("benchmarks.tensorrt", [], None)["python"])
sys.exit(benchmarks.tensorrt.main(["time", "/nonexistent"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "make them with the command export" in done.stderr
