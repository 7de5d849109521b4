"""The gate on real runs: two of the same, and one whose encoder span is a fifth longer.

The engine of stated cost stands in the encoder's place, so that the answer depends on the gate and
not on what else the machine does: with a model on shared cores, "inconclusive" is often the truth. Its
cost is long against the few milliseconds by which a busy machine wakes it late.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.gate import main

LIMITS = """\
rules:
  - {metric: span.encoder.p50, scope: all, limit: 0.10, required: true}
"""


COMMON = ("model=fixed_cost", "frontend=whole", "workload.requests=30", "runner.warmup.max_passes=2")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )


def test_the_same_is_the_same_and_a_fifth_more_is_a_regression(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    costs = {"a": 0.060, "b": 0.060, "c": 0.072}
    variants = [f"runner.label={name} model.options.per_request_s={s}" for name, s in costs.items()]
    flags = [word for variant in variants for word in ("--of", variant)]
    done = run(tmp_path, "harness.interleave", *flags, "--rounds", "4", *COMMON)
    assert done.returncode == 0, done.stdout + done.stderr
    a, b, c = re.findall(r"^compare .* (\S+) (\S+) (\S+)$", done.stdout, re.MULTILINE)[0]

    def gate(candidate: str) -> subprocess.CompletedProcess[str]:
        paths = ("--baseline", a, "--candidate", candidate, "--thresholds", "limits.yaml")
        outputs = ("--markdown", "gate.md", "--junit", "gate.xml")
        return run(tmp_path, "harness.gate", *paths, *outputs, "--subject", "model")

    same, slower = gate(b), gate(c)
    assert same.returncode == 0, same.stdout
    assert "same" in same.stdout
    assert slower.returncode == 5, slower.stdout
    assert "regression" in (tmp_path / "gate.md").read_text()
    assert "<failure" in (tmp_path / "gate.xml").read_text()


def test_the_gate_measures_until_it_can_tell(tmp_path: Path) -> None:
    """One command, with the answer of the runs that it leaves behind."""
    (tmp_path / "limits.yaml").write_text(LIMITS)
    sides = [f"runner.label={name} model.options.per_request_s={s}" for name, s in (("a", 0.06), ("b", 0.09))]
    flags = [word for side in sides for word in ("--of", side)]
    judged = ("--thresholds", "limits.yaml", "--subject", "model")
    done = run(tmp_path, "harness.gate", *flags, *judged, "--rounds", "12", *COMMON, "workload.requests=10")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "regression in span.encoder.p50 (all)" in done.stdout
    assert "after 3 rounds: " in done.stderr
    a, b = re.findall(r"^results +(\S+)$", done.stderr, re.MULTILINE)
    again = run(tmp_path, "harness.gate", "--baseline", a, "--candidate", b, *judged)
    assert (again.returncode, again.stdout) == (5, done.stdout)


@pytest.mark.parametrize(
    "sides",
    [[], ["--of", "variant=eager"], ["--baseline", "a"], ["--of", "x", "--of", "y", "--candidate", "z"]],
)
def test_two_sides_have_to_be_named(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(sides) == 2
    assert "name two sides" in capsys.readouterr().err
