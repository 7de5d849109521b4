"""The gate on real runs: two of the same, and one whose encoder takes a fifth longer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.project_copy import ProjectCopy

SLOWER_ENCODER = '''\
"""The eager encoder, and a fifth of its time on top."""

import time
from collections.abc import Mapping
from typing import Any

from harness.protocols import EncoderOutput, Evidence, FeatureBatch, ShapePlan
from variants.encoder import eager
from variants.models.types import TdtModel


def build(model: TdtModel, options: Mapping[str, Any], plan: ShapePlan) -> "Slower":
    return Slower(eager.build(model, {}, plan))


class Slower:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        start = time.perf_counter()
        encoded = self._inner.encode(batch)
        deadline = start + 1.2 * (time.perf_counter() - start)
        while time.perf_counter() < deadline:
            pass
        return encoded

    def evidence(self) -> Evidence:
        return self._inner.evidence()
'''

LEAF = """\
name: slower
needs: []
tolerance: {kind: exact}
options: {}
"""

LIMITS = """\
rules:
  - {metric: span.encoder.p50, scope: all, limit: 0.10, required: true}
"""


@pytest.mark.slow
def test_the_same_is_the_same_and_a_fifth_more_is_a_regression(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path / "project", tmp_path / "cache")
    project.add("variants/encoder/slower.py", SLOWER_ENCODER)
    project.add("conf/encoder/slower.yaml", LEAF)
    project.add("limits.yaml", LIMITS)
    variants = ("--of", "runner.label=a", "--of", "runner.label=b", "--of", "runner.label=c encoder=slower")
    done = project.run(
        "-m", "harness.interleave", *variants, "--rounds", "5",
        f"runner.cache_dir={project.cache}", "workload.requests=60", "runner.warmup.max_passes=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    a, b, c = re.findall(r"^compare .* (\S+) (\S+) (\S+)$", done.stdout, re.MULTILINE)[0]

    def gate(candidate: str) -> int:
        limits = ("--thresholds", "limits.yaml")
        return project.run(
            "-m", "harness.gate", "--baseline", a, "--candidate", candidate, *limits
        ).returncode

    assert gate(b) == 0
    assert gate(c) == 5
