"""``python -m harness.claims``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.claims.__main__ import main
from harness.errors import ExitCode
from harness.record import read_run

TINY = (
    "dataset.items=2", "workload.requests=6", "runner.warmup.max_passes=1", "runner.warmup.min_passes=1",
    # Beside it, what the kernel takes to wake five processes on cores that others use is a small share.
    "model.options.per_request_s=0.04",
)  # fmt: skip


def test_a_claim_is_measured_compared_and_judged(tmp_path: Path) -> None:
    """The whole way, in small: the pair takes turns, is compared, and the verdict follows by its rule."""
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    out = tmp_path / "out"
    assert main(["--quick", "--claims", "8", "--out", str(out), *TINY, *places]) == ExitCode.DONE
    (claim,) = json.loads((out / "claims.json").read_text())["claims"]
    runs = [read_run(Path(folder)).run for folder in claim["runs"]]
    assert [run.variant for run in runs] == ["microservices", "collapsed"]
    assert runs[0].series == runs[1].series is not None
    hops = next(row for row in claim["rows"] if row["metric"] == "evidence.topology.hops_per_request")
    assert (hops["baseline"], hops["candidate"], hops["ratio"]) == ("5.00", "3.00", "0.600")
    assert claim["verdict"] in ("partly", "not here", "undecided")
    assert (out / "claim-8" / "report.html").is_file()
    assert "claim-8/latency.png" in (out / "claims.md").read_text()


@pytest.mark.parametrize("numbers", ["10", "six", "5,,6"])
def test_a_claim_that_does_not_exist_is_refused(
    numbers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--claims", numbers, "--out", str(tmp_path)]) == ExitCode.USAGE
    assert "--claims" in capsys.readouterr().err


def test_a_claim_of_one_run_is_measured_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best variant's place taken by an engine of known cost, and less audio than the claim speaks of."""
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    small = (
        "variant=eager", "model=fixed_cost", "model.precision=fp32", "dataset=smoke", "dataset.items=3",
        "topology.options.frontend_workers=1", "workload.options.in_flight=2",
    )  # fmt: skip
    assert main(["--quick", "--claims", "1", "--out", str(tmp_path), *small, *TINY[2:], *places]) == 0
    assert "the claim speaks of 20 h" in capsys.readouterr().out
    (claim,) = json.loads((tmp_path / "claims.json").read_text())["claims"]
    run = read_run(Path(claim["runs"][0])).run
    assert (str(run.mode), run.config["batching"]["name"]) == ("offline", "continuous")
    assert [row["process"] for row in claim["rows"]] == [0]
    assert claim["verdict"] == "undecided"


@pytest.mark.slow
def test_the_serving_path_s_claims_run_here(tmp_path: Path) -> None:
    places = (f"runner.results_dir={tmp_path / 'results'}", f"runner.cache_dir={tmp_path / 'cache'}")
    cost = TINY[-1:]
    assert main(["--quick", "--claims", "5,6,7,8", "--out", str(tmp_path), *cost, *places]) == ExitCode.DONE
    claims = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert [claim["number"] for claim in claims] == [5, 6, 7, 8]
    assert all(claim["rows"] and claim["charts"] for claim in claims)
