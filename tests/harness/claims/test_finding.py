"""A claim tested: what this machine can run, what comes of the pair of runs, and the report of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.claims import report
from harness.claims.finding import Finding, Tester, drawn, judged, judged_within
from harness.claims.leaf import Condition, Leaf, Within, read_leaves
from harness.claims.reference import reference_rows, speedup
from harness.claims.verdict import Verdict
from harness.errors import ExitCode, HarnessError, UnavailableError, UsageError
from harness.interleave import Budget
from harness.record import MEASURED, Mode, Reason, RunWriter, Status, StoredRun, VerdictStatus
from harness.record import Verdict as RunVerdict
from tests.harness.machines import Laptop, Workstation
from tests.harness.runs import Recipe, make_run, process_record, samples, unmeasured

Row = Mapping[str, Any]
LEAVES = read_leaves()
ON_GPUS = (2, 3, 4, 9)
TWICE = Leaf(
    claim="an encoder of half the cost | on any machine",
    baseline=("variant=eager",),
    candidate=("variant=compiled",),
    holds=(Condition("span.encoder.p50", at_most=0.6),),
    partly=(Condition("span.encoder.p50", at_most=0.9),),
)
FOUND = Finding(12, TWICE, TWICE.pair(), Verdict.NOT_BUILT, "")


@dataclass
class Measured:
    """Stands for the interleaver: gives these runs and takes down what it was asked for."""

    runs: Sequence[StoredRun] = ()
    errors: Sequence[HarnessError] = ()
    asked: list[Any] = field(default_factory=list)

    def __call__(
        self, configurations: Sequence[Sequence[str]], budget: Budget
    ) -> tuple[list[StoredRun], list[HarnessError]]:
        self.asked.append((*configurations, budget))
        return list(self.runs), list(self.errors)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredRun, StoredRun]:
    """Two interleaved runs; the candidate's encoder takes half as long."""
    results = tmp_path_factory.mktemp("results")
    series = {"series": "s"}
    return (
        make_run(results, Recipe("a", requests=60, changes=series)),
        make_run(results, Recipe("b", "compiled", requests=60, seed=1, encoder_factor=0.5, changes=series)),
    )


# ---------------------------------------------------------------- whether it can be tested


@pytest.mark.parametrize("number", ON_GPUS)
def test_a_fitting_machine_measures_the_gpu_claims(number: int, tmp_path: Path) -> None:
    """Up to the interleaver, which has to find a GPU for itself."""
    measure = Measured(errors=[HarnessError("the measurement began")])
    finding = Tester(tmp_path, 4, machine=Workstation(), measure=measure).test(number, LEAVES[number])
    assert measure.asked == [(*LEAVES[number].pair(), Budget(4))]
    assert (finding.verdict, finding.measured) == (Verdict.FAILED, "the measurement began")


@pytest.mark.parametrize("number", ON_GPUS)
def test_others_name_what_is_missing_and_what_named_machines_measured(number: int, tmp_path: Path) -> None:
    measure = Measured()
    finding = Tester(tmp_path, 4, machine=Laptop(), measure=measure).test(number, LEAVES[number])
    assert measure.asked == []
    assert finding.verdict is Verdict.CANNOT_RUN
    assert "no NVIDIA GPU" in finding.measured
    assert "on nvidia-h100-80gb" in finding.measured
    assert all(row["machine"].startswith("nvidia") for row in finding.reference)
    assert "not of this one" in finding.notes[0]
    assert finding.exit_code is ExitCode.DONE
    _HOLDS[number](finding.reference)


def _profiles(rows: Sequence[Row]) -> None:
    """Compared at each length."""
    assert {row["audio length"] for row in rows} == {"1", "2", "5", "10", "30"}
    for row in rows:
        assert row["single ms"] == pytest.approx(row["multi ms"] * row["times faster"], rel=0.01)
        assert row["single_own ms"] > 0


def _memory(rows: Sequence[Row]) -> None:
    """Of every encoder."""
    held = {row["encoder"]: row["weights MiB"] for row in rows}
    assert held["fused"] == held["eager"] > 1000
    assert any(name.startswith("TensorRT multi, level 2") for name in held)


def _decoders(rows: Sequence[Row]) -> None:
    """Alone, and in complete requests."""
    assert {row.get("batch") for row in rows} == {"1", "8", "32", "128", None}
    assert "nvidia-h100-80gb/pipeline_decoders" in {row["machine"] for row in rows}


_HOLDS = {2: _profiles, 3: _memory, 4: _decoders, 9: _decoders}


NOT_BUILT = replace(TWICE, holds=(), partly=(), not_built="the other half does not exist")


def test_what_does_not_exist_is_not_blamed_on_the_machine(tmp_path: Path) -> None:
    measure = Measured()
    finding = Tester(tmp_path, 4, machine=Workstation(), measure=measure).test(13, NOT_BUILT)
    assert (finding.verdict, measure.asked) == (Verdict.NOT_BUILT, [])
    assert "other half" in finding.measured


# ---------------------------------------------------------------- what one run says

TWO_MINUTES = replace(LEAVES[1], within=Within(audio_s=120.0, holds_s=10.0, partly_s=30.0))


@pytest.mark.parametrize(
    ("clip_s", "apart_s", "verdict"),
    [
        (36.0, 2.0, Verdict.REPRODUCED),  # four clips, one after the other
        (36.0, 5.0, Verdict.PARTLY),
        (36.0, 9.0, Verdict.NOT_HERE),
        (29.0, 2.0, Verdict.UNDECIDED),  # less audio than the claim speaks of
    ],
)
def test_a_claim_within_a_time_is_judged_by_its_slowest_process(
    tmp_path: Path, clip_s: float, apart_s: float, verdict: Verdict
) -> None:
    asked: list[Sequence[str]] = []

    def measure_one(side: Sequence[str]) -> StoredRun:
        asked.append(side)
        return offline_run(tmp_path / "results", clip_s, (1.0, apart_s))

    tester = Tester(tmp_path, 2, machine=Workstation(), measure_one=measure_one)
    finding = tester.test(1, TWO_MINUTES)
    assert "runner.processes=2" in asked[0] and "workload=offline" in asked[0]
    assert (finding.verdict, len(finding.rows)) == (verdict, 2)
    assert "in 4.00 s, " in finding.measured
    assert finding.as_dict()["baseline"] == []


def test_a_run_that_may_not_be_quoted_decides_nothing(tmp_path: Path) -> None:
    stored = broken(offline_run(tmp_path / "results", 36.0, (1.0,)), "parity")
    finding = judged_within(replace(FOUND, leaf=TWO_MINUTES), TWO_MINUTES.within, stored)
    assert (finding.verdict, finding.rows) == (Verdict.UNDECIDED, ())


def test_a_machine_without_a_gpu_cannot_run_it(tmp_path: Path) -> None:
    finding = Tester(tmp_path, 2, machine=Laptop()).test(1, LEAVES[1])
    assert finding.verdict is Verdict.CANNOT_RUN and "no NVIDIA GPU" in finding.measured


def offline_run(results: Path, clip_s: float, apart_s: Sequence[float]) -> StoredRun:
    """Four clips, answered so many seconds one after the other; a process for each pace."""
    run = unmeasured(Recipe(mode=Mode.OFFLINE))
    writer = RunWriter.open(results, run)
    for index, pace_s in enumerate(apart_s):
        record = process_record(index)
        (some, *_) = samples(Recipe(), index)
        with writer.journal(record) as journal:
            for n in range(1, 5):
                times = {"scheduled_s": 0.0, "dispatched_s": 0.0, "started_s": 0.0, "finished_s": n * pace_s}
                journal.append(replace(some, phase=MEASURED, index=n, audio_s=clip_s, **times))
            journal.finish(record)
    verdict = RunVerdict(VerdictStatus.VALID)
    return writer.finish(replace(writer.run, status=Status.COMPLETE, verdict=verdict))


def test_overrides_that_can_never_run_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_key"):
        Tester(tmp_path, 4, overrides=["no_such_key=1"], measure=Measured()).test(8, LEAVES[8])


def test_what_fails_while_it_is_measured_is_named_with_its_exit_code(tmp_path: Path) -> None:
    failed = Tester(tmp_path, 4, measure=Measured(errors=[UsageError("no such thing")])).test(8, LEAVES[8])
    assert (failed.verdict, failed.measured) == (Verdict.FAILED, "no such thing")
    assert failed.exit_code is ExitCode.USAGE


def test_what_measuring_finds_missing_is_named(tmp_path: Path) -> None:
    lacking = Tester(tmp_path, 4, measure=Measured(errors=[UnavailableError("no package")]))
    assert lacking.test(8, LEAVES[8]).verdict is Verdict.CANNOT_RUN


# ---------------------------------------------------------------- what the pair says


def test_the_pair_is_compared_judged_and_drawn(tmp_path: Path, pair: tuple[StoredRun, StoredRun]) -> None:
    finding = replace(judged(FOUND, *pair), charts=drawn(12, pair, tmp_path))
    assert finding.verdict is Verdict.REPRODUCED
    assert finding.measured.startswith("span.encoder.p50 ")
    whole = finding.rows[0]
    assert (whole["metric"], whole["scope"], whole["shown"]) == ("span.encoder.p50", "all", "better")
    assert finding.charts
    assert all((tmp_path / chart).stat().st_size > 10_000 for chart in finding.charts)
    _reported(finding, tmp_path)
    assert judged(FOUND, pair[0], pair[0]).verdict is Verdict.NOT_HERE


def test_another_answer_is_not_here(tmp_path: Path, pair: tuple[StoredRun, StoredRun]) -> None:
    other = make_run(tmp_path, Recipe("other", "compiled", requests=60, encoder_factor=0.5, say=str.upper))
    finding = judged(FOUND, pair[0], other)
    assert finding.verdict is Verdict.NOT_HERE
    assert finding.measured.startswith("speed withheld: ")


def broken(stored: StoredRun, rule: str, late: bool = False) -> StoredRun:
    verdict = RunVerdict(VerdictStatus.INVALID, (Reason(rule, "2 chunks were not acknowledged"),))
    processes = tuple(replace(p, evidence={"streaming": {"late": late}}) for p in stored.run.processes)
    return replace(stored, run=replace(stored.run, verdict=verdict, processes=processes))


@pytest.mark.parametrize(
    ("which", "rule", "late", "verdict"),
    [
        ("baseline", "streams", False, Verdict.REPRODUCED),
        ("candidate", "streams", False, Verdict.NOT_HERE),
        ("baseline", "streams", True, Verdict.CANNOT_RUN),
        ("candidate", "streams", True, Verdict.CANNOT_RUN),
        ("baseline", "evidence", False, Verdict.UNDECIDED),
    ],
)
def test_not_to_serve_is_an_answer_where_the_claim_says_so(
    pair: tuple[StoredRun, StoredRun],
    which: str,
    rule: str,
    late: bool,
    verdict: Verdict,
) -> None:
    a, b = pair
    sides = (broken(a, rule, late), b) if which == "baseline" else (a, broken(b, rule, late))
    finding = judged(replace(FOUND, leaf=replace(TWICE, not_serving_decides=True)), *sides)
    assert finding.verdict is verdict
    assert "2 chunks were not acknowledged" in finding.measured
    if not late:
        assert judged(FOUND, *sides).verdict is Verdict.UNDECIDED


# ---------------------------------------------------------------- named machines


def test_states_that_were_wrong_withhold_the_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"length_s": 1.0, "samples_s": {"single": [0.004] * 60}, "invalid": {"multi": "differs"}}
    engine = {"tensorrt": "8.6.0", "optimization_level": 3, "profiles_frames": [[1, 8, 8]]}
    good = {"length_s": 2.0, "samples_s": {n: [0.004] * 60 for n in ("single", "multi")}, "invalid": {}}
    document = {
        "provenance": {"gpu": None},
        "meta": {"layers": 2},
        "engines": {"single": engine, "multi": engine},
        "rows": [row, good],
    }
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "tensorrt.json").write_text(json.dumps(document))
    monkeypatch.setattr("harness.claims.reference.reference_dir", lambda: tmp_path)
    withheld, shown = reference_rows(LEAVES[2])
    assert withheld["withheld"] == "multi gave wrong states"
    assert shown["times faster"] == 1.0


def test_a_speedup_comes_with_its_interval() -> None:
    drift = [1.0, 0.9, 1.1, 0.95, 1.05] * 5
    found = speedup([0.040 * d for d in drift], [0.010 * d for d in drift])
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(4.0, rel=0.05)
    assert found.high - found.low < 0.5  # both took turns, so the drift cancels


# ---------------------------------------------------------------- the report


def _reported(finding: Finding, folder: Path) -> None:
    """The report holds every claim with its rule."""
    other = Tester(folder, 4).test(13, NOT_BUILT)
    text = report.write([finding, other], folder, {"rounds": 4}).read_text()
    assert "an encoder of half the cost \\| on any machine" in text
    assert "`variant=eager -> variant=compiled`: **reproduced**" in text
    assert f"Rule: {TWICE.rule}." in text
    assert "![claim 12](claim-12/" in text
    written = json.loads((folder / "claims.json").read_text())["claims"]
    assert [claim["verdict"] for claim in written] == ["reproduced", "not built"]
