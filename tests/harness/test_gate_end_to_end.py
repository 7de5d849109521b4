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

LIMITS = """\
rules:
  - {metric: span.encoder.p50, scope: all, limit: 0.10, required: true}
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )


def test_the_same_is_the_same_and_a_fifth_more_is_a_regression(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    costs = {"a": 0.060, "b": 0.060, "c": 0.072}
    variants = [f"runner.label={name} model.options.per_request_s={s}" for name, s in costs.items()]
    flags = [word for variant in variants for word in ("--of", variant)]
    common = ("model=fixed_cost", "frontend=whole", "workload.requests=30", "runner.warmup.max_passes=2")
    done = run(tmp_path, "harness.interleave", *flags, "--rounds", "3", *common)
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
