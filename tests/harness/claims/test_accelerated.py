"""Claims that need a GPU, on a machine that may have none."""

from __future__ import annotations

import numpy as np
import pytest

from harness.claims.accelerated import CLAIMS, speedup, tests
from harness.claims.model import Bench, Verdict
from harness.config.needs import Machine


@pytest.mark.parametrize("number", [claim.number for claim in CLAIMS])
def test_a_machine_without_a_gpu_says_so(number: int, tmp_path: object) -> None:
    if Machine().compute_capability is not None:
        pytest.skip("this machine has a GPU")
    finding = tests()[number][1](Bench(folder=tmp_path, cache_dir=tmp_path))  # type: ignore[arg-type]
    assert finding.verdict is Verdict.CANNOT_RUN
    assert "GPU" in finding.measured


def test_the_decoder_claims_show_the_reference_machines_by_name(tmp_path: object) -> None:
    finding = tests()[4][1](Bench(folder=tmp_path, cache_dir=tmp_path))  # type: ignore[arg-type]
    assert finding.rows
    assert all(row["machine"].startswith("NVIDIA") for row in finding.rows)
    assert all(row["low"] <= row["times faster"] <= row["high"] for row in finding.rows)
    assert "not of this one" in finding.notes[0]


def test_a_speedup_comes_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(0.9, 1.1, 25)
    ratio, low, high = speedup((0.040 * drift).tolist(), (0.010 * drift).tolist())
    assert low <= ratio <= high
    assert ratio == pytest.approx(4.0, rel=0.05)
    assert high - low < 0.5  # both took turns, so the drift cancels
